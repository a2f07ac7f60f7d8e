-- Records the outcome of a segment. Only the first outcome of a segment counts.
--
-- KEYS  1 the segment queue   2 the unspoken segments   3 the results
-- ARGV  1 segment   2 the outcome, JSON   3 lifetime of the results in seconds
-- Returns 1, or 0 if the segment has an outcome already or the chapter is over
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[1], 'holder ' .. ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return 1
