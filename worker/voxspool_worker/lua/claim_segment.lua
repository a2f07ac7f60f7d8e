-- Leases the next segment of a chapter to a worker: first one whose lease has expired, then the first free one.
--
-- An expired lease counts as a death: the worker that held the segment died, of this segment or of another one. The
-- segment is then a suspect. Only a worker that speaks no other segment gets it, so that a second death cannot be the
-- fault of a neighbour. After too many deaths the segment gets the outcome "poison" and is not spoken again, but not if
-- all died on one host: then a machine may be broken, and not the segment. That needs another host, or a worker that had
-- completed other segments and died of this one while no other host could try it, or two more deaths. Meanwhile a worker
-- of that host that has completed nothing takes the segment only if there is no other.
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
--       7 "1": the worker speaks no other segment   8 host of the worker
--       9 "1": the worker has completed a segment since it started; otherwise "0"
--       10 the hosts of live workers that take jobs, each between spaces
-- Returns {"claimed", index, deaths}
--       | {"none"} (all segments are held or have an outcome)
--       | {"suspect"} (a suspect waits for a worker that speaks no other segment)
--       | {"over"} (the chapter has ended, or is being cancelled)
--       | {"other"} (the queue belongs to another plan)
local MAX_LOOK = 32
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
-- Adds one death to what is known of a segment: the number of deaths, the hosts, and whether the segment is to blame.
local function with_death(index, deaths, died_on, blamed)
  local by = redis.call('HGET', pool, 'by ' .. index) or ''
  local completed, host = by:match('^(%d) (%S*)$')
  host = host or ''
  local other_hosts = ARGV[10]:gsub('%S+', function(live) return live == host and '' or live end):find('%S')
  if deaths > 0 and completed == '1' and not other_hosts then
    blamed = '1'
  end
  if not (' ' .. died_on .. ' '):find(' ' .. host .. ' ', 1, true) then
    died_on = died_on == '' and host or died_on .. ' ' .. host
  end
  return deaths + 1, died_on, blamed
end

local too_many = tonumber(ARGV[5])
local function is_poison(deaths, died_on, blamed)
  return deaths >= too_many and (died_on:find(' ') or blamed == '1' or deaths >= too_many + 2)
end

local function claim(index, deaths, died_on, blamed)
  redis.call('ZADD', unspoken, 'XX', now_ms + tonumber(ARGV[2]), index)
  local before = redis.call('HGET', pool, 'holder ' .. index)
  if before then
    redis.call('HDEL', pool, 'claim ' .. before)
  end
  redis.call('HSET', pool, 'holder ' .. index, ARGV[1], 'claim ' .. ARGV[1], index, 'by ' .. index,
    ARGV[9] .. ' ' .. ARGV[8])
  if deaths > 0 then
    redis.call('HSET', pool, 'deaths ' .. index, deaths, 'died_on ' .. index, died_on, 'blamed ' .. index, blamed)
  end
  return {'claimed', tonumber(index), deaths}
end

local last_choice
for _, expired in ipairs({true, false}) do
  local indices = {}
  if not expired then
    indices = redis.call('ZRANGEBYSCORE', unspoken, 0, 0, 'LIMIT', 0, MAX_LOOK)
  elseif expired_by > 0 then
    indices = redis.call('ZRANGEBYSCORE', unspoken, '(0', expired_by, 'LIMIT', 0, MAX_LOOK)
  end
  for _, index in ipairs(indices) do
    local deaths, died_on, blamed = unpack(redis.call('HMGET', pool, 'deaths ' .. index, 'died_on ' .. index,
      'blamed ' .. index))
    deaths, died_on, blamed = tonumber(deaths) or 0, died_on or '', blamed or '0'
    if expired then
      deaths, died_on, blamed = with_death(index, deaths, died_on, blamed)
    end
    if is_poison(deaths, died_on, blamed) then
      redis.call('ZREM', unspoken, index)
      redis.call('RPUSH', results, string.format('[%d,"poison"]', tonumber(index)))
      redis.call('EXPIRE', results, ARGV[3])
    elseif deaths >= too_many and died_on == ARGV[8] and ARGV[9] ~= '1' then
      last_choice = last_choice or {index, deaths, died_on, blamed}
    elseif deaths > 0 and ARGV[7] ~= '1' then
      return {'suspect'}
    else
      return claim(index, deaths, died_on, blamed)
    end
  end
end
if not last_choice then
  return {'none'}
elseif ARGV[7] ~= '1' then
  return {'suspect'}
end
return claim(unpack(last_choice))
