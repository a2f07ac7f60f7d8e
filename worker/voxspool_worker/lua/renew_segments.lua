-- Renews the leases of segments of one chapter, or ends them so that other workers can claim the segments.
--
-- KEYS  1 the segment queue   2 the unspoken segments
-- ARGV  1 lease in ms; 0: end the leases   2 lifetime of the keys in seconds   3.. segment, holder
--       A segment is '' if the reply to the holder's claim was lost.
-- Returns the segments that these holders have lost: another worker holds them, they have an outcome, or the chapter is
-- over
local lease_ms, lost = tonumber(ARGV[1]), {}
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
local time = redis.call('TIME')
local until_ms = lease_ms > 0 and time[1] * 1000 + math.floor(time[2] / 1000) + lease_ms or 0
for i = 3, #ARGV, 2 do
  local index, holder = ARGV[i], ARGV[i + 1]
  if index == '' then
    index = redis.call('HGET', KEYS[1], 'claim ' .. holder) or ''
  end
  if redis.call('ZSCORE', KEYS[2], index) and redis.call('HGET', KEYS[1], 'holder ' .. index) == holder then
    redis.call('ZADD', KEYS[2], 'XX', until_ms, index)
    if lease_ms == 0 then -- a renewal that is sent at the same time must not lease it again
      redis.call('HDEL', KEYS[1], 'holder ' .. index, 'claim ' .. holder)
    end
  elseif index ~= '' then
    table.insert(lost, index)
  end
end
return lost
