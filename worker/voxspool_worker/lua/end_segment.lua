-- Records the outcome of a segment. Only the first outcome of a segment counts, and only from a worker with the same plan
-- of the chapter: in another plan the number means another text. A worker that lost its lease may report, since it has
-- spoken the same text, unless another worker holds the segment now.
--
-- A worker may call this again if the reply was lost: it gets the same reply.
--
-- KEYS  1 the segment queue   2 the unspoken segments   3 the results
-- ARGV  1 segment   2 the outcome, JSON   3 lifetime of the results in seconds   4 digest of the plan   5 holder
-- Returns 1, or 0 if the segment has another outcome already, another worker holds it, or the chapter is over
local plan, holder, ended = unpack(redis.call('HMGET', KEYS[1], 'plan', 'holder ' .. ARGV[1], 'ended ' .. ARGV[1]))
local outcome = redis.sha1hex(ARGV[5] .. ARGV[2])
if plan ~= ARGV[4] or (holder and holder ~= ARGV[5]) then
  return 0
end
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
  return ended == outcome and 1 or 0
end
redis.call('HDEL', KEYS[1], 'holder ' .. ARGV[1], 'claim ' .. ARGV[5], 'by ' .. ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[3])
redis.call('HSET', KEYS[1], 'ended ' .. ARGV[1], outcome)
return 1
