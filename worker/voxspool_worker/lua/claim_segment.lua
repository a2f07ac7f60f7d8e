-- Gives a chapter's next unspoken segment to who asks: one whose lease ran out, else the first that is free.
--
-- A lease that runs out is a death: whoever held it has died of the segment, or beside it. Such a segment is a suspect.
-- It is given only to a worker that speaks no other, so that its neighbours are not blamed for a next death; and after
-- as many deaths as are too many it is set aside, with a result that says so.
--
-- KEYS  1 the pool   2 the unspoken segments   3 the results   4 the job's control hash
-- ARGV  1 who asks   2 lease in ms   3 lifetime in seconds   4 digest of the plan   5 deaths that are too many
--       6 "1" where a lease that ran out counts (not after a time without Redis: nobody could renew one)
--       7 "1" where the worker speaks no other segment
-- gives {"claimed", index, deaths} | {"none"} | {"suspect"} (one waits for a worker that speaks no other)
--       | {"over"} (the chapter is, or is being cancelled) | {"other"} (its plan is another)
--
-- EXPIRE comes first: at its memory's limit Redis refuses a script's first write if it may need memory, and none after.
local pool, unspoken, results = KEYS[1], KEYS[2], KEYS[3]
if redis.call('EXPIRE', pool, ARGV[3]) == 0 then
  return {'over'}
end
redis.call('EXPIRE', unspoken, ARGV[3])
local state, cancel = unpack(redis.call('HMGET', KEYS[4], 'state', 'cancel'))
if cancel or state ~= 'running' then
  return {'over'}
end
if redis.call('HGET', pool, 'plan') ~= ARGV[4] then
  return {'other'}
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
while true do
  local index, died = nil, 0
  if ARGV[6] == '1' then
    index, died = redis.call('ZRANGEBYSCORE', unspoken, '(0', now_ms, 'LIMIT', 0, 1)[1], 1
  end
  if not index then
    index, died = redis.call('ZRANGEBYSCORE', unspoken, 0, 0, 'LIMIT', 0, 1)[1], 0
  end
  if not index then
    return {'none'}
  end
  local deaths = (tonumber(redis.call('HGET', pool, 'deaths ' .. index)) or 0) + died
  if deaths >= tonumber(ARGV[5]) then
    redis.call('ZREM', unspoken, index)
    redis.call('RPUSH', results, string.format('[%d,"poison"]', tonumber(index)))
    redis.call('EXPIRE', results, ARGV[3])
  elseif deaths > 0 and ARGV[7] ~= '1' then
    return {'suspect'}
  else
    redis.call('ZADD', unspoken, 'XX', now_ms + tonumber(ARGV[2]), index)
    redis.call('HSET', pool, 'holder ' .. index, ARGV[1])
    if deaths > 0 then
      redis.call('HSET', pool, 'deaths ' .. index, deaths)
    end
    return {'claimed', tonumber(index), deaths}
  end
end
