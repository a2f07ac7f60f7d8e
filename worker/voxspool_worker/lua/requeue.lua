-- Puts a started job back at the front of its queue, without a retry: a worker's own hand-back, or the rescue of a job
-- whose worker died; or at the front of another engine's queue, to pass it on. Whoever removes the execution does it;
-- everybody else finds it gone.
--
-- A death is counted with the job: how many workers in a row died while it stood at the same segment. A job that advances
-- between two deaths is not what they died of.
--
-- KEYS  1 rq:wip:<queue>   2 rq:queue:<queue to go to>   3 rq:job:<job>   4 rq:execution:<job>:<execution>
--       5 rq:executions:<job>   6 the control hash   7 rq:queues
-- ARGV  1 <job>:<execution>   2 <job>   3 <execution>   4 <queue to go to>
--       5 why: "expired" (its worker died; only if its lease has run out) | "broken" (its worker ends with its engine)
--         | "returned" (nobody died)
--       6 "1": to the end of the queue
-- gives "requeued" | "alive" | "gone" | "over" (its run had ended; only the execution was left)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then
  return 'gone'
end
if ARGV[5] == 'expired' and tonumber(score) > tonumber(redis.call('TIME')[1]) then
  return 'alive'
end
-- what may fail (a key of another type) comes before what must not be half done
local holder, complete = unpack(redis.call('HMGET', KEYS[6], 'holder', 'marked_segments'))
local status, deaths, died_at = unpack(redis.call('HMGET', KEYS[3], 'status', 'deaths', 'died_at'))
redis.call('LLEN', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
local worker = redis.call('HGET', KEYS[4], 'worker_name')
if worker then
  redis.call('SREM', 'rq:worker:' .. worker .. ':executions', ARGV[1])
end
redis.call('DEL', KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[3])
if holder == ARGV[3] then
  redis.call('HDEL', KEYS[6], 'holder', 'lease_until')
end
if status ~= 'started' then
  return 'over'
end
if ARGV[5] ~= 'returned' then
  complete = complete or '0'
  local before = died_at == complete and tonumber(deaths) or 0
  redis.call('HSET', KEYS[3], 'deaths', before + 1, 'died_at', complete)
end
redis.call('HSET', KEYS[3], 'status', 'queued', 'worker_name', '', 'origin', ARGV[4])
redis.call('SADD', KEYS[7], KEYS[2])
redis.call(ARGV[6] == '1' and 'RPUSH' or 'LPUSH', KEYS[2], ARGV[2])
return 'requeued'
