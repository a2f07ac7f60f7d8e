-- Renews the lease of a running job, and the lifetime of its stream: a stream that nobody closes expires later. Leases
-- count by the clock of Redis, so the clocks of the workers do not matter.
--
-- If RQ itself cancels or deletes a job, it removes the lease and leaves the stream open. This script then tells the
-- run to close the stream.
--
-- The first write is an EXPIRE because Redis at its memory limit refuses a script whose first write may need memory,
-- and allows all later writes. Otherwise the worker would lose its lease and look dead.
--
-- KEYS  1 rq:wip:<queue>   2 rq:execution:<job>:<execution>   3 rq:executions:<job>   4 the control hash
--       5 rq:job:<job>   6 the audio stream
-- ARGV  1 <job>:<execution>   2 <execution>   3 lease in seconds   4 lifetime of an open stream in seconds
-- Returns "ok" | "lost" (another worker has put the job back into its queue) | "cancelled by <name>"
local holder = redis.call('HGET', KEYS[4], 'holder')
local score = redis.pcall('ZSCORE', KEYS[1], ARGV[1])
local spoilt = type(score) == 'table' and score.err -- a key of another type: the run goes on under its stream's lease
if not score then
  local status = redis.call('HGET', KEYS[5], 'status')
  if holder == ARGV[2] and (status == 'canceled' or not status) then
    return 'cancelled by RQ'
  end
  return 'lost'
end
local time = redis.call('TIME')
local lease = tonumber(ARGV[3])
redis.call('EXPIRE', KEYS[2], lease + 60)
if not spoilt then
  redis.call('ZADD', KEYS[1], 'XX', time[1] + lease, ARGV[1])
end
redis.call('HSET', KEYS[2], 'last_heartbeat', time[1])
redis.pcall('ZADD', KEYS[3], 'XX', time[1] + lease + 60, ARGV[2])
redis.call('EXPIRE', KEYS[3], lease + 60)
if holder == ARGV[2] then
  redis.call('HSET', KEYS[4], 'lease_until', (time[1] + lease) * 1000)
  redis.call('EXPIRE', KEYS[4], ARGV[4])
  redis.call('EXPIRE', KEYS[6], ARGV[4])
  local cancel = redis.call('HGET', KEYS[4], 'cancel')
  if cancel then
    return 'cancelled by ' .. cancel
  end
end
return 'ok'
