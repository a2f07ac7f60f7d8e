-- Appends one entry to the stream of a job, if the attempt that sends it still owns the stream.
--
-- A publisher may call this again if the reply was lost: the entry is in the stream already, which is a success.
--
-- At its memory limit Redis refuses a script whose first write may need memory, and allows all later writes. Audio is
-- refused in this way. Other entries are small, so their first write is one that needs no memory: they are never
-- refused, and the end of a job frees memory later.
--
-- KEYS  1 the audio stream   2 the control hash   3 voxspool:open
-- ARGV  1 attempt   2 seq   3 type   4 pos   5 data   6 pos after the entry
--       7 number of complete segments after the entry ('' unless it is a mark)
--       8 state after the entry ('' unless it is terminal)
--       9 lifetime of the stream after a terminal entry, in seconds   10 <job>
-- Returns "ok" | "fenced" (another attempt owns the stream)
--       | "hole" (entries before this one are missing: Redis lost writes) | "cancelled by <name>"
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
  redis.pcall('ZREM', KEYS[3], ARGV[10])
end
return 'ok'
