-- Puts a running job back into a queue without using up a retry: the worker hands it back, the worker died, or another
-- engine must speak it. If several workers try, the one that removes the lease does it, and the others get "gone".
--
-- Counts in the job how many workers in a row died, or lost their engine, while the job was in the same segment. If the
-- job advanced in between, the count starts again: then the segment is not the cause.
--
-- KEYS  1 rq:wip:<queue>   2 rq:queue:<new queue>   3 rq:job:<job>   4 rq:execution:<job>:<execution>
--       5 rq:executions:<job>   6 the control hash   7 rq:queues
-- ARGV  1 <job>:<execution>   2 <job>   3 <execution>   4 <new queue>
--       5 reason: "expired" (the worker died; only if its lease has expired) | "broken" (the worker ends because its
--         engine failed) | "returned" (no worker died)
--       6 "1": to the end of the queue; otherwise to the front
--       7 for "expired": the time in seconds by which the lease must have ended. It is the time of Redis, unless its
--         clock has jumped
-- Returns "requeued" | "alive" (its lease has not expired) | "gone"
--       | "over" (the run had ended; only its lease was left, and is removed)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then
  return 'gone'
end
if ARGV[5] == 'expired' and tonumber(score) > math.min(tonumber(redis.call('TIME')[1]), tonumber(ARGV[7])) then
  return 'alive'
end
-- A key of another type must not keep a job under an expired lease, nor lose it: a failed script keeps the writes before
-- the error. What only lists the job for RQ's tools may fail; the queue itself is looked at first.
redis.call('LLEN', KEYS[2])
local of_stream = redis.pcall('HMGET', KEYS[6], 'holder', 'marked_segments')
local holder, complete = of_stream[1], of_stream[2]
local of_job = redis.pcall('HMGET', KEYS[3], 'status', 'deaths', 'died_at')
local status, deaths, died_at = of_job[1], of_job[2], of_job[3]
redis.call('ZREM', KEYS[1], ARGV[1])
local worker = redis.pcall('HGET', KEYS[4], 'worker_name')
if type(worker) == 'string' then
  redis.pcall('SREM', 'rq:worker:' .. worker .. ':executions', ARGV[1])
end
redis.call('DEL', KEYS[4])
redis.pcall('ZREM', KEYS[5], ARGV[3])
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
redis.pcall('SADD', KEYS[7], KEYS[2])
redis.call(ARGV[6] == '1' and 'RPUSH' or 'LPUSH', KEYS[2], ARGV[2])
return 'requeued'
