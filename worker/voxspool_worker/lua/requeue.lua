-- Puts a running job back into a queue without using up a retry: the worker hands it back, the worker died, or another
-- engine must speak it. If several workers try, the one that removes the lease does it, and the others get "gone".
--
-- Counts in the job how many workers in a row died, or lost their engine, while the job was in the same segment. If the
-- job advanced in between, the count starts again: then the segment is not the cause. The hosts of these workers are
-- recorded too, and whether the job is to blame: the worker had completed other segments, spoke this job alone, and no
-- other host could have tried it. A later death of a worker that ran other jobs beside this one proves neither.
--
-- KEYS  1 rq:wip:<queue>   2 rq:queue:<new queue>   3 rq:job:<job>   4 rq:execution:<job>:<execution>
--       5 rq:executions:<job>   6 the control hash   7 rq:queues
-- ARGV  1 <job>:<execution>   2 <job>   3 <execution>   4 <new queue>
--       5 reason: "expired" (the worker died; only if its lease has expired) | "died" (its process is gone)
--         | "broken" (the worker ends because its engine failed) | "returned" (no worker died)
--       6 "1": to the end of the queue; otherwise to the front
--       7 for "expired": the time in seconds by which the lease must have ended. It is the time of Redis, unless its
--         clock has jumped
--       8 the hosts of live workers that take jobs, each between spaces
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
local of_job = redis.pcall('HMGET', KEYS[3], 'status', 'deaths', 'died_at', 'died_on', 'blamed')
local status, deaths, died_at, died_on, blamed = of_job[1], of_job[2], of_job[3], of_job[4], of_job[5]
redis.call('ZREM', KEYS[1], ARGV[1])
local of_run = redis.pcall('HMGET', KEYS[4], 'worker_name', 'host', 'completed', 'alone')
local worker, host, completed, alone = of_run[1], of_run[2], of_run[3], of_run[4]
if worker then
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
  if before == 0 then
    died_on, blamed = '', '0'
  end
  died_on, host = died_on or '', host or ''
  local other_hosts = (ARGV[8] or ''):gsub('%S+', function(live) return live == host and '' or live end):find('%S')
  if before > 0 and completed == '1' and alone == '1' and not other_hosts then
    blamed = '1'
  end
  if (before == 0 or alone == '1') and not (' ' .. died_on .. ' '):find(' ' .. host .. ' ', 1, true) then
    died_on = died_on == '' and host or died_on .. ' ' .. host
  end
  redis.call('HSET', KEYS[3], 'deaths', before + 1, 'died_at', complete, 'died_on', died_on, 'blamed', blamed or '0')
end
redis.call('HSET', KEYS[3], 'status', 'queued', 'worker_name', '', 'origin', ARGV[4])
redis.pcall('SADD', KEYS[7], KEYS[2])
redis.call(ARGV[6] == '1' and 'RPUSH' or 'LPUSH', KEYS[2], ARGV[2])
return 'requeued'
