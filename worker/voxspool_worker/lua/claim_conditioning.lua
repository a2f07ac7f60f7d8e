-- Gives a voice's conditioning, or the turn to compute it, in one step: nobody takes the turn for a value that is there.
--
-- KEYS  1 the value   2 the lock
-- ARGV  1 token of who asks   2 lifetime of the lock in ms   3 lifetime of the value in seconds, from its last use
-- gives {"value", the value} | {"turn"} (compute it) | {"busy"} (another computes it)
--
-- Asked again by the same token (its reply was lost), the turn is still its own.
local value = redis.call('GET', KEYS[1])
if value then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  return {'value', value}
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
  return {'busy'}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {'turn'}
