-- Renews the lease of one running job, by Redis's clock, so that workers' clocks do not matter; and the lifetime of its
-- stream, which is long, should nobody ever close it.
--
-- At its memory's limit Redis refuses a script's first write if it may need memory, and none after it. So an EXPIRE comes
-- first, which needs none: a lease that could not be renewed would look like a dead worker.
--
-- RQ's own cancel and delete take a job's lease away and leave its stream open: such a run is told to close it.
--
-- KEYS  1 rq:wip:<queue>   2 rq:execution:<job>:<execution>   3 rq:executions:<job>   4 the control hash
--       5 rq:job:<job>   6 the audio stream
-- ARGV  1 <job>:<execution>   2 <execution>   3 lease in seconds   4 lifetime in seconds of an open stream
-- gives "ok" | "lost" (somebody brought the job back) | "cancelled by <who>"
local holder = redis.call('HGET', KEYS[4], 'holder')
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  local status = redis.call('HGET', KEYS[5], 'status')
  if holder == ARGV[2] and (status == 'canceled' or not status) then
    return 'cancelled by RQ'
  end
  return 'lost'
end
local time = redis.call('TIME')
local lease = tonumber(ARGV[3])
redis.call('EXPIRE', KEYS[2], lease + 60)
redis.call('ZADD', KEYS[1], 'XX', time[1] + lease, ARGV[1])
redis.call('HSET', KEYS[2], 'last_heartbeat', time[1])
redis.call('ZADD', KEYS[3], 'XX', time[1] + lease + 60, ARGV[2])
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
