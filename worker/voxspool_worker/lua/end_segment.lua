-- Says what came of a segment; the first who does is believed.
--
-- KEYS  1 the pool   2 the unspoken segments   3 the results
-- ARGV  1 segment   2 the result   3 lifetime in seconds
-- gives 1, or 0 where somebody has said so before, or the chapter is over
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[1], 'holder ' .. ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return 1
