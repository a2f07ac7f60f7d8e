-- Takes over a chapter's pool for a run, or begins it anew: results of another plan say nothing about this one.
--
-- KEYS  1 the pool   2 the unspoken segments   3 the results
-- ARGV  1 digest of the plan   2 lifetime in seconds
-- gives "taken" | "begun"
if redis.call('HGET', KEYS[1], 'plan') == ARGV[1] then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  return 'taken'
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'plan', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'begun'
