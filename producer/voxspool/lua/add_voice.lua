-- Stores a cloned voice in one step, so that no worker ever sees a part of it.
--
-- A producer may call this again if the reply was lost: the voice is stored already, which is a success.
--
-- KEYS  1 the hash of voices   2 the list of the voice's clips
-- ARGV  1 name   2 "1": replace a voice with this name   3 description, JSON   4.. the clips in order, FLAC
-- Returns "added" | "replaced" | "exists" (nothing was changed)
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there == ARGV[3] then
  return 'added'
end
if there and ARGV[2] ~= '1' then
  return 'exists'
end
redis.call('DEL', KEYS[2])
for i = 4, #ARGV do
  redis.call('RPUSH', KEYS[2], ARGV[i])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return there and 'replaced' or 'added'
