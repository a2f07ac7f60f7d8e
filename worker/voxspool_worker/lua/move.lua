-- Moves a job that waits and has not begun to the end of another queue, in one step: whoever takes it out of the first
-- puts it into the second, everybody else finds it gone.
--
-- KEYS  1 rq:queue:<queue>   2 rq:queue:<queue to go to>   3 rq:job:<job>   4 the control hash   5 rq:queues
-- ARGV  1 <job>   2 <queue to go to>
-- gives "moved" | "begun" (its stream has an attempt: it stays with the engine that began it) | "gone"
if redis.call('HEXISTS', KEYS[4], 'attempt') == 1 then
  return 'begun'
end
-- what may fail (a key of another type) comes before what must not be half done
redis.call('LLEN', KEYS[2])
redis.call('SADD', KEYS[5], KEYS[2])
if redis.call('HLEN', KEYS[3]) == 0 or redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then
  return 'gone'
end
redis.call('HSET', KEYS[3], 'origin', ARGV[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
return 'moved'
