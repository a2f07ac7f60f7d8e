-- Records how far a reader has read the stream of a job. Only jobs that ask for it use this: a live job ends if no
-- reader acknowledges, and a job with a window waits for its reader. If there are several readers, the furthest counts.
--
-- KEYS  1 the control hash   2 the acknowledgement
-- ARGV  1 number of samples read   2 lifetime of the acknowledgement in seconds
-- Returns "noted" | "unasked" (the job does not need acknowledgements: send no more) | the state of a job that is over
local state, live_s, window_s = unpack(redis.call('HMGET', KEYS[1], 'state', 'live_s', 'window_s'))
if state and state ~= 'running' then
  return state
end
if state and not live_s and not window_s then
  return 'unasked'
end
local pos, time = tonumber(ARGV[1]), redis.call('TIME')
if state then
  pos = math.max(pos, tonumber(redis.call('HGET', KEYS[2], 'pos')) or 0)
end
-- The first write needs no memory: at its memory limit Redis refuses a script whose first write may need some.
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[2], 'pos', pos, 'at', time[1] * 1000 + math.floor(time[2] / 1000),
  'waiting', state and '' or '1') -- what was written while the job waited outlives the begin of its first attempt
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 'noted'
