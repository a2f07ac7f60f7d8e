-- Claims a job's stream for one run and opens its next attempt, in one step. This claim is what makes a second
-- delivery of the same job harmless.
--
-- KEYS  1 the audio stream   2 the control hash   3 rq:wip:<queue>, where the run's lease stands
-- ARGV  1 the run's own name   2 lease in ms   3 data of the begin entry   4 <job>:<run>   5 engine   6 sample rate
--       7.. field, value: facts for the control hash
-- gives {"closed", state} | {"held", holder} | {"lost"} (the run has no lease any more: the job is somebody else's)
--       | {"elsewhere", engine, sample rate} (an earlier attempt was of another engine or rate; nothing is done)
--       | {"begun", attempt, seq, pos, next segment}
--
-- A begin that is sent again by the same run (its reply was lost) finds its own attempt and changes nothing.
local stream, control = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local state, holder, lease_until, attempt, seq, marked_pos, marked_segments, engine, rate = unpack(
  redis.call('HMGET', control, 'state', 'holder', 'lease_until', 'attempt', 'seq', 'marked_pos', 'marked_segments',
    'engine', 'sample_rate'))
if state and state ~= 'running' then
  return {'closed', state}
end
marked_pos, marked_segments = marked_pos or '0', marked_segments or '0'
for _, count in ipairs({marked_pos, marked_segments, rate or '0'}) do
  if #count > 15 or not count:match('^%d+$') then
    return redis.error_reply('ERR a count of the control hash is not an integer') -- anybody may have written it
  end
end
if holder == ARGV[1] then
  return {'begun', tonumber(attempt), tonumber(seq), tonumber(marked_pos), tonumber(marked_segments)}
end
if holder and tonumber(lease_until) > now_ms then
  return {'held', holder}
end
if not redis.call('ZSCORE', KEYS[3], ARGV[4]) then
  return {'lost'}
end
if engine and rate and (engine ~= ARGV[5] or rate ~= ARGV[6]) then
  return {'elsewhere', engine, tonumber(rate)}
end

attempt = (tonumber(attempt) or 0) + 1
redis.call('XADD', stream, attempt .. '-1', 'type', 'begin', 'pos', marked_pos, 'data', ARGV[3])
redis.call('HSET', control, 'attempt', attempt, 'state', 'running', 'holder', ARGV[1], 'lease_until', now_ms + tonumber(ARGV[2]),
  'seq', 1, 'pos', marked_pos, 'engine', ARGV[5], 'sample_rate', ARGV[6], unpack(ARGV, 7))
return {'begun', attempt, 1, tonumber(marked_pos), tonumber(marked_segments)}
