-- Returns the clips of a cloned voice, unless there are too many or they are too long to be clips.
--
-- KEYS  1 the list of the voice's clips
-- ARGV  1 the largest number of clips   2 the largest size of all of them, in bytes
-- Returns a list of strings, or the number or the size that is too large
local count = redis.call('LLEN', KEYS[1])
if count > tonumber(ARGV[1]) then
  return count
end
local clips, bytes = {}, 0
for i = 0, count - 1 do
  clips[i + 1] = redis.call('LRANGE', KEYS[1], i, i)[1]
  bytes = bytes + #clips[i + 1]
  if bytes > tonumber(ARGV[2]) then
    return bytes
  end
end
return clips
