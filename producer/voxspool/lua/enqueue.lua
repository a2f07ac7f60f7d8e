-- Puts a job into a queue, unless its id is taken. An id that is free, or whose job failed or was cancelled, starts a
-- new speech: its stream is new, and a run of the earlier job that still lives can write nothing more.
--
-- A producer may call this again if the reply was lost: the job that has its `created_at` is its own.
--
-- KEYS  1 rq:job:<job>   2 rq:queue:<queue>   3 rq:queues   4 the audio stream   5 the control hash
--       6 the acknowledgement
-- ARGV  1 <job>   2 <queue>   3 digest of the speech   4 lifetime of the ended stream from now on, in seconds
--       5.. field, value: the job's hash, with `status` and `created_at`
-- Returns "enqueued" | "same" (the id has this speech already: a waiting, running or ended job; nothing is enqueued)
--       | "other" (the id belongs to another speech) | "unknown" (to a job without a digest)
local record, queue, queues, stream, control, ack = unpack(KEYS)
local job, digest = ARGV[1], ARGV[3]
local fields = {}
for i = 5, #ARGV, 2 do
  fields[ARGV[i]] = ARGV[i + 1]
end

local status, origin, digest_of_job, created_at = unpack(
  redis.call('HMGET', record, 'status', 'origin', 'digest', 'created_at'))
local state, attempt, past, cancel, spoken, holder = unpack(
  redis.call('HMGET', control, 'state', 'attempt', 'past', 'cancel', 'digest', 'holder'))
local exists = redis.call('EXISTS', record) == 1
if created_at and created_at == fields.created_at then
  return 'enqueued'
end

local given_up = status == 'failed' or status == 'canceled' or status == 'stopped'
local over = state == 'failed' or state == 'cancelled' or (state ~= 'ended' and (cancel or given_up))
local ended = state == 'ended' and redis.call('EXISTS', stream) == 1
local there = exists and state ~= 'ended' and (state or status ~= 'finished') -- otherwise it ended and has expired
if not over and (ended or there) then
  local known = spoken or digest_of_job
  if known and known ~= digest then
    return 'other'
  end
  if known or exists then
    for _, key in ipairs(known and ended and {stream, control} or {}) do
      if redis.call('TTL', key) < tonumber(ARGV[4]) then
        redis.call('EXPIRE', key, ARGV[4])
      end
    end
    return known and 'same' or 'unknown'
  end
end

-- The first write may need memory, so Redis at its memory limit refuses the whole script.
redis.call('LLEN', queue) -- raises an error for a key of another type, before anything is written
local listed = redis.pcall('SADD', queues, queue)
if type(listed) == 'table' and listed.err and not listed.err:find('WRONGTYPE') then -- RQ's tools alone need that set
  return listed
end
if exists or state then
  origin = origin and origin ~= '' and origin or ARGV[2]
  local runs = redis.call('ZRANGE', 'rq:executions:' .. job, 0, -1)
  table.insert(runs, holder or nil)
  for _, run in ipairs(runs) do -- without its lease, a run can neither begin nor record an end
    redis.call('ZREM', 'rq:wip:' .. origin, job .. ':' .. run)
  end
  redis.call('ZREM', 'rq:canceled:' .. origin, job)
  redis.call('LREM', 'rq:queue:' .. origin, 0, job)
end
for _, key in ipairs({record, stream, control, ack}) do
  redis.call('EXPIRE', key, 0) -- deletes it; a producer has no permission for DEL
end
past = math.max(tonumber(past) or 0, tonumber(attempt) or 0)
if past > 0 then -- ids of entries must rise, whoever still reads the old stream
  redis.call('HSET', control, 'past', past)
  redis.call('EXPIRE', control, 2592000)
end
redis.call('HSET', record, 'digest', digest, unpack(ARGV, 5))
redis.call('RPUSH', queue, job)
return 'enqueued'
