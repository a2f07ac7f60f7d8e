-- Claims the stream of a job for one run, and opens its next attempt, in one step. The claim makes a second delivery of
-- the same job harmless.
--
-- A run may call this again if the reply was lost: it gets its own attempt, and nothing changes.
--
-- A job may be enqueued again under the id of an earlier one without enqueue.lua, by RQ's own tools: with another speech,
-- or after its failure (`rq requeue`). Then the stream starts again, as enqueue.lua starts it.
--
-- KEYS  1 the audio stream   2 the control hash   3 rq:wip:<queue>, which holds the lease of the run
--       4 the acknowledgement of the readers   5 voxspool:open
-- ARGV  1 name of the run   2 lease in ms   3 data of the begin entry   4 <job>:<run>   5 engine   6 sample rate in Hz
--       7 digest of the speech   8 the attempt with which RQ's record of the job says that it failed; '' if none
--       9.. field, value: facts for the control hash
-- Returns {"begun", attempt, seq, pos, next segment}
--       | {"closed", state}
--       | {"held", holder} (another run holds the stream)
--       | {"lost"} (the run has no lease any more; another worker has the job)
--       | {"elsewhere", engine, sample rate} (an earlier attempt had another engine or rate; nothing is changed)
local stream, control = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local state, holder, lease_until, attempt, seq, marked_pos, marked_segments, engine, rate, past, digest = unpack(
  redis.call('HMGET', control, 'state', 'holder', 'lease_until', 'attempt', 'seq', 'marked_pos', 'marked_segments',
    'engine', 'sample_rate', 'past', 'digest'))
local again = (digest and ARGV[7] ~= '' and digest ~= ARGV[7])
  or ((state == 'failed' or state == 'cancelled') and attempt == ARGV[8])
if state and state ~= 'running' and not again then
  return {'closed', state}
end
marked_pos, marked_segments = marked_pos or '0', marked_segments or '0'
for _, count in ipairs({marked_pos, marked_segments, rate or '0'}) do
  if #count > 15 or not count:match('^%d+$') then
    return redis.error_reply('ERR a count of the control hash is not an integer') -- other programs can write this hash
  end
end
if holder == ARGV[1] then
  return {'begun', tonumber(attempt), tonumber(seq), tonumber(marked_pos), tonumber(marked_segments)}
end
if holder and (tonumber(lease_until) or 0) > now_ms then
  return {'held', holder}
end
if not redis.call('ZSCORE', KEYS[3], ARGV[4]) then
  return {'lost'}
end
if again then
  redis.call('DEL', stream, control)
  past = math.max(tonumber(past) or 0, tonumber(attempt) or 0)
  redis.call('HSET', control, 'past', past)
  attempt, marked_pos, marked_segments, engine = nil, '0', '0', nil
end
if engine and rate and (engine ~= ARGV[5] or rate ~= ARGV[6]) then
  return {'elsewhere', engine, tonumber(rate)}
end

local begun = ARGV[3]
if past then
  begun = '{"first":' .. past + 1 .. ',' .. begun:sub(2)
end
local first = not attempt
attempt = (tonumber(attempt) or tonumber(past) or 0) + 1
redis.call('XADD', stream, attempt .. '-1', 'type', 'begin', 'pos', marked_pos, 'data', begun)
if first and redis.call('HGET', KEYS[4], 'waiting') ~= '1' then
  redis.call('DEL', KEYS[4]) -- an earlier job with this id left it
end
redis.call('HSET', control, 'attempt', attempt, 'state', 'running', 'holder', ARGV[1], 'lease_until', now_ms + tonumber(ARGV[2]),
  'seq', 1, 'pos', marked_pos, 'engine', ARGV[5], 'sample_rate', ARGV[6],
  unpack(ARGV, 9))
if ARGV[7] ~= '' then -- it is empty for a job that cannot be read, which is refused
  redis.call('HSET', control, 'digest', ARGV[7])
end
-- If RQ loses the job, nobody renews or closes the stream: others find it in KEYS[5], and it expires in any case.
redis.call('EXPIRE', stream, 2592000)
redis.call('EXPIRE', control, 2592000)
redis.pcall('ZADD', KEYS[5], time[1] + math.ceil(tonumber(ARGV[2]) / 1000), ARGV[4]:sub(1, -#ARGV[1] - 2))
return {'begun', attempt, 1, tonumber(marked_pos), tonumber(marked_segments)}
