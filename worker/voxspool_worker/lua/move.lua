-- Moves a waiting job that has not begun to the end of another queue, in one step. If several workers try, one moves it
-- and the others get "gone".
--
-- KEYS  1 rq:queue:<queue>   2 rq:queue:<new queue>   3 rq:job:<job>   4 the control hash   5 rq:queues
-- ARGV  1 <job>   2 <new queue>
-- Returns "moved" | "begun" (its stream has an attempt, so it stays with the engine of that) | "gone"
if redis.call('HEXISTS', KEYS[4], 'attempt') == 1 then
  return 'begun'
end
-- Commands that may fail (on a key of another type) come first: a failed script keeps the writes before the error.
redis.call('LLEN', KEYS[2])
redis.call('SADD', KEYS[5], KEYS[2])
if redis.call('HLEN', KEYS[3]) == 0 or redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then
  return 'gone'
end
redis.call('HSET', KEYS[3], 'origin', ARGV[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
return 'moved'
