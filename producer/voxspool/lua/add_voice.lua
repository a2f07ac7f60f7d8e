-- Stores a cloned voice, whole, in one step: no worker ever sees clips without their description, or half of them.
--
-- KEYS  1 the hash of voices   2 the list of the voice's clips
-- ARGV  1 name   2 "1": replace a voice that has the name   3 description, JSON   4.. the clips, FLAC, in order
-- gives "added" | "replaced" | "exists" (nothing is changed)
--
-- A voice that is sent again (its reply was lost) is already there: success.
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
