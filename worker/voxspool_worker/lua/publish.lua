-- Appends one entry to a job's stream, if the run that sends it still owns the stream.
--
-- KEYS  1 the audio stream   2 the control hash
-- ARGV  1 attempt   2 seq   3 type   4 pos   5 data   6 pos after the entry
--       7 segments complete after it ('' unless it is a mark)   8 state it leaves ('' unless it is terminal)
--       9 lifetime in seconds after a terminal entry
-- gives "ok" | "fenced" (another attempt owns the stream) | "hole" (entries before this one are missing: Redis lost
--       writes) | "cancelled by <who>" (somebody asked to stop)
--
-- An entry that is sent again (its reply was lost) is already there: success.
--
-- At its memory's limit Redis refuses a script's first write if it may need memory, and none after it. Audio is refused so;
-- everything else is small, and is let through by a first write that needs none: an end gives memory back, in time.
local stream, control = KEYS[1], KEYS[2]
local attempt, seq, cancel = unpack(redis.call('HMGET', control, 'attempt', 'seq', 'cancel'))
if attempt ~= ARGV[1] then
  return 'fenced'
end
local gap = tonumber(ARGV[2]) - tonumber(seq)
if gap <= 0 then
  return 'ok'
end
if gap > 1 then
  return 'hole'
end
if cancel and ARGV[8] == '' then
  return 'cancelled by ' .. cancel
end

if ARGV[8] ~= '' then
  redis.call('EXPIRE', stream, ARGV[9])
  redis.call('EXPIRE', control, ARGV[9])
elseif ARGV[7] ~= '' then
  redis.call('HDEL', control, '')
end
redis.call('XADD', stream, attempt .. '-' .. ARGV[2], 'type', ARGV[3], 'pos', ARGV[4], 'data', ARGV[5])
if ARGV[7] ~= '' then
  redis.call('HSET', control, 'seq', ARGV[2], 'pos', ARGV[6], 'marked_pos', ARGV[6], 'marked_segments', ARGV[7])
elseif ARGV[8] == '' then
  redis.call('HSET', control, 'seq', ARGV[2], 'pos', ARGV[6])
else
  redis.call('HSET', control, 'seq', ARGV[2], 'pos', ARGV[6], 'state', ARGV[8])
  redis.call('HDEL', control, 'holder', 'lease_until')
end
return 'ok'
