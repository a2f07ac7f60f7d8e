-- Removes the run of a second delivery, if the run that holds the job's stream has a lease. Otherwise the run stays,
-- and the job returns to its queue when the lease of the run expires.
--
-- KEYS  1 rq:wip:<queue>   2 rq:execution:<job>:<execution>   3 rq:executions:<job>   4 rq:worker:<worker>:executions
--       5 the control hash
-- ARGV  1 <job>:<execution>   2 <job>   3 <execution>
-- Returns "forgotten" | "kept"
local holder = redis.call('HGET', KEYS[5], 'holder')
if holder == ARGV[3] or not holder or not redis.call('ZSCORE', KEYS[1], ARGV[2] .. ':' .. holder) then
  return 'kept'
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('SREM', KEYS[4], ARGV[1])
return 'forgotten'
