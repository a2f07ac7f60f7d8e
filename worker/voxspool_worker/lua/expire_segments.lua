-- Lets the leases of the segments expire that a dead worker holds in one chapter. The next claim counts its death.
--
-- KEYS  1 the segment queue   2 the unspoken segments
-- ARGV  1 start of the holders of this worker
-- Returns the number of its segments
local pool, held = redis.call('HGETALL', KEYS[1]), 0
for i = 1, #pool, 2 do
  local index = pool[i]:match('^holder (.+)$')
  if index and pool[i + 1]:sub(1, #ARGV[1]) == ARGV[1] and redis.call('ZSCORE', KEYS[2], index) then
    redis.call('ZADD', KEYS[2], 'XX', 1, index)
    held = held + 1
  end
end
return held
