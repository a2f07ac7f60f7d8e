-- Asks a job to stop, or closes its stream where nobody runs it.
--
-- KEYS  1 the audio stream   2 the control hash
-- ARGV  1 by whom   2 data of the cancelled entry   3 lifetime of the closed stream, in seconds
--
-- At its memory's limit Redis refuses a script's first write if it may need memory, and none after it. So one that needs
-- none comes first: to cancel is a way out.
-- gives the state it was in when that was terminal already | "asked" (its run stops at the next chunk) | "cancelled"
local stream, control = KEYS[1], KEYS[2]
local state, holder, lease_until, pos = unpack(
  redis.call('HMGET', control, 'state', 'holder', 'lease_until', 'pos'))
if state and state ~= 'running' then
  return state
end
redis.call('HDEL', control, '')
redis.call('HSET', control, 'cancel', ARGV[1])
local time = redis.call('TIME')
if holder and tonumber(lease_until) > time[1] * 1000 then
  return 'asked'
end
local attempt = redis.call('HINCRBY', control, 'attempt', 1)
redis.call('XADD', stream, attempt .. '-1', 'type', 'cancelled', 'pos', pos or '0', 'data', ARGV[2])
redis.call('HSET', control, 'seq', 1, 'state', 'cancelled')
redis.call('HDEL', control, 'holder', 'lease_until')
redis.call('EXPIRE', stream, ARGV[3])
redis.call('EXPIRE', control, ARGV[3])
return 'cancelled'
