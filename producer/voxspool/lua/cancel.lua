-- Asks a running job to stop, or closes the stream of a job that no worker runs.
--
-- The first write needs no memory, because Redis at its memory limit refuses a script whose first write may need some,
-- and allows all later writes. Cancelling must work then: it frees memory.
--
-- KEYS  1 the audio stream   2 the control hash
-- ARGV  1 name of who cancels   2 data of the cancelled entry   3 lifetime of the closed stream in seconds
-- Returns "asked" (the run stops at its next chunk) | "cancelled" | the state of a job that was over already
local stream, control = KEYS[1], KEYS[2]
local state, holder, lease_until, pos, attempt, past = unpack(
  redis.call('HMGET', control, 'state', 'holder', 'lease_until', 'pos', 'attempt', 'past'))
if state and state ~= 'running' then
  return state
end
redis.call('HDEL', control, '')
redis.call('HSET', control, 'cancel', ARGV[1])
local time = redis.call('TIME')
if holder and (tonumber(lease_until) or 0) > time[1] * 1000 then
  return 'asked'
end
attempt = (tonumber(attempt) or tonumber(past) or 0) + 1
redis.call('XADD', stream, attempt .. '-1', 'type', 'cancelled', 'pos', pos or '0', 'data', ARGV[2])
redis.call('HSET', control, 'attempt', attempt, 'seq', 1, 'state', 'cancelled')
redis.call('HDEL', control, 'holder', 'lease_until')
redis.call('EXPIRE', stream, ARGV[3])
-- The job may still be in a queue, perhaps for longer than its stream lives: then the worker that takes it must see this.
redis.call('EXPIRE', control, 2592000)
return 'cancelled'
