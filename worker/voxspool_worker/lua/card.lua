-- Says that a worker lives: RQ's record of it and our card of what it offers, each with its lifetime.
--
-- At its memory's limit Redis refuses a script's first write if it may need memory, and none after it. So an EXPIRE comes
-- first, which needs none: a worker that waits for memory is alive.
--
-- KEYS  1 the card   2 voxspool:workers   3 rq:worker:<worker>   4 rq:workers   5 rq:worker:<worker>:executions
--       6.. rq:workers:<queue>, for each of its queues
-- ARGV  1 worker   2 lifetime in seconds   3 lifetime of its set of runs, in seconds
--       4 how many of the following are of the card   5.. field, value: of the card, then of RQ's record
redis.call('EXPIRE', KEYS[5], ARGV[3])
local card = 4 + tonumber(ARGV[4])
redis.call('HSET', KEYS[1], unpack(ARGV, 5, card))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], unpack(ARGV, card + 1))
redis.call('EXPIRE', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], KEYS[3])
for list = 6, #KEYS do
  redis.call('SADD', KEYS[list], KEYS[3])
end
