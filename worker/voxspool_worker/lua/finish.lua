-- Records the end of a run in RQ's format, if the run still has its lease. Check and record are one step, so a run that
-- lost its lease cannot overwrite the records of a later one.
--
-- A worker may call this again if the reply was lost: the last result of the job is its own, which is a success.
--
-- KEYS  1 rq:wip:<queue>   2 rq:job:<job>   3 rq:execution:<job>:<execution>   4 rq:executions:<job>
--       5 rq:worker:<worker>:executions   6 rq:finished:<queue> or rq:failed:<queue>   7 rq:results:<job>
--       8 rq:job:<job>:dependents   9 the control hash
-- ARGV  1 <job>:<execution>   2 <job>   3 <execution>   4 status   5 the time in RQ's format
--       6 lifetime of the job's record in seconds; negative: unlimited
--       7 "wait", or "enqueued" if the jobs that depend on this one are in their queue already
--       8.. field, value: RQ's result
-- Returns "done" | "lost" (another worker has put the job back into its queue)
--       | "dependents" (nothing was changed; the jobs that depend on this one must be enqueued first)
-- A key of another type must not lose the end of the job: what only lists it for RQ's tools may fail.
local score = redis.pcall('ZSCORE', KEYS[1], ARGV[1])
if type(score) == 'table' and score.err then
  score = redis.call('EXISTS', KEYS[3]) == 1
end
if not score then
  redis.call('DEL', KEYS[3])
  redis.pcall('ZREM', KEYS[4], ARGV[3])
  redis.pcall('SREM', KEYS[5], ARGV[1])
  local last = redis.pcall('XREVRANGE', KEYS[7], '+', '-', 'COUNT', 1)[1]
  for i = 1, last and #last[2] or 0, 2 do
    if last[2][i] == 'execution_id' and last[2][i + 1] == ARGV[3] then
      return 'done'
    end
  end
  return 'lost'
end
if ARGV[7] == 'wait' and redis.call('EXISTS', KEYS[8]) == 1 then
  return 'dependents'
end
local keep_s = tonumber(ARGV[6])
redis.pcall('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3])
redis.pcall('ZREM', KEYS[4], ARGV[3])
redis.pcall('SREM', KEYS[5], ARGV[1])
redis.call('HSET', KEYS[2], 'status', ARGV[4], 'ended_at', ARGV[5])
if ARGV[4] ~= 'finished' then -- `rq requeue` keeps the hash: the next run tells by this that its end was recorded
  redis.call('HSET', KEYS[2], 'gave_up', redis.call('HGET', KEYS[9], 'attempt') or '')
  redis.call('HDEL', KEYS[2], 'deaths', 'died_at', 'died_on', 'blamed')
end
redis.pcall('ZADD', KEYS[6], keep_s < 0 and keep_s or redis.call('TIME')[1] + keep_s, ARGV[2])
redis.pcall('XADD', KEYS[7], 'MAXLEN', 10, '*', unpack(ARGV, 8))
if keep_s >= 0 then
  redis.call('EXPIRE', KEYS[2], keep_s)
  redis.call('EXPIRE', KEYS[7], keep_s)
end
return 'done'
