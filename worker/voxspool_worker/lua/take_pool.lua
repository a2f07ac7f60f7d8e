-- Prepares the segment queue of a chapter for a run: keeps the queue of an earlier run with the same plan, or creates
-- a new one, because the results of another plan do not fit.
--
-- KEYS  1 the segment queue   2 the unspoken segments   3 the results
-- ARGV  1 digest of the plan   2 lifetime in seconds
-- Returns "taken" | "begun"
if redis.call('HGET', KEYS[1], 'plan') == ARGV[1] then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  return 'taken'
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('HSET', KEYS[1], 'plan', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'begun'
