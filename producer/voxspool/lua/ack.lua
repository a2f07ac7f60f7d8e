-- Says how far a reader has read a job, for jobs that ask for it: a live one ends when nobody says so, one with a window
-- waits for it. Of several readers the one that is furthest counts.
--
-- KEYS  1 the control hash   2 the acknowledgement
-- ARGV  1 up to which sample   2 lifetime in seconds
-- gives "noted" | "unasked" (the job does not ask: say no more) | the state of a job that is over
local state, live_s, window_s = unpack(redis.call('HMGET', KEYS[1], 'state', 'live_s', 'window_s'))
if state and state ~= 'running' then
  return state
end
if state and not live_s and not window_s then
  return 'unasked'
end
local pos, time = tonumber(redis.call('HGET', KEYS[2], 'pos')) or 0, redis.call('TIME')
-- at its memory's limit Redis refuses a script's first write if it may need memory, and none after it
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[2], 'pos', math.max(pos, tonumber(ARGV[1])), 'at', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 'noted'
