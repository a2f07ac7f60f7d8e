-- Leases the next segment of a chapter to a worker: first one whose lease has expired, then the first free one.
--
-- An expired lease counts as a death: the worker that held the segment died, of this segment or of another one. The
-- segment is then a suspect. Only a worker that speaks no other segment gets it, so that a second death cannot be the
-- fault of a neighbour. After too many deaths the segment gets the outcome "poison" and is not spoken again.
--
-- A worker may call this again with the same holder if the reply was lost, also much later: it gets the segment that it
-- has, and no second one, which nobody would speak and whose expired lease would count as a death.
--
-- The first write is an EXPIRE because Redis at its memory limit refuses a script whose first write may need memory,
-- and allows all later writes.
--
-- KEYS  1 the segment queue   2 the unspoken segments   3 the results   4 the control hash of the job
-- ARGV  1 holder: a name for this claim   2 lease in ms   3 lifetime of the keys in seconds   4 digest of the plan
--       5 number of deaths that are too many
--       6 the time in ms by which a lease must have ended to count as expired: the time of Redis, unless its clock has
--         jumped; 0: no lease counts, because live workers may not have renewed theirs
--       7 "1": the worker speaks no other segment
-- Returns {"claimed", index, deaths}
--       | {"none"} (all segments are held or have an outcome)
--       | {"suspect"} (a suspect waits for a worker that speaks no other segment)
--       | {"over"} (the chapter has ended, or is being cancelled)
--       | {"other"} (the queue belongs to another plan)
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
local expired_by = math.min(now_ms, tonumber(ARGV[6]))
if expired_by > 0 then -- leases that end later than any lease can: the clock was set back
  local latest = now_ms + tonumber(ARGV[2])
  for _, index in ipairs(redis.call('ZRANGEBYSCORE', unspoken, latest + 2000, '+inf', 'LIMIT', 0, 100)) do
    redis.call('ZADD', unspoken, 'XX', latest, index)
  end
end
local again = redis.call('HGET', pool, 'claim ' .. ARGV[1])
if again then
  if redis.call('ZSCORE', unspoken, again) and redis.call('HGET', pool, 'holder ' .. again) == ARGV[1] then
    redis.call('ZADD', unspoken, 'XX', now_ms + tonumber(ARGV[2]), again)
    return {'claimed', tonumber(again), tonumber(redis.call('HGET', pool, 'deaths ' .. again)) or 0}
  end
  redis.call('HDEL', pool, 'claim ' .. ARGV[1])
end
while true do
  local index, died = nil, 0
  if expired_by > 0 then
    index, died = redis.call('ZRANGEBYSCORE', unspoken, '(0', expired_by, 'LIMIT', 0, 1)[1], 1
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
    local before = redis.call('HGET', pool, 'holder ' .. index)
    if before then
      redis.call('HDEL', pool, 'claim ' .. before)
    end
    redis.call('ZADD', unspoken, 'XX', now_ms + tonumber(ARGV[2]), index)
    redis.call('HSET', pool, 'holder ' .. index, ARGV[1], 'claim ' .. ARGV[1], index)
    if deaths > 0 then
      redis.call('HSET', pool, 'deaths ' .. index, deaths)
    end
    return {'claimed', tonumber(index), deaths}
  end
end
