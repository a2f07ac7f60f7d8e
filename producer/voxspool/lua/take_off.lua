-- Takes a job that was cancelled while it waited out of RQ's queue, and writes what RQ writes of a cancelled job. A job
-- that was enqueued again meanwhile stays. No worker can take the job afterwards, so that its control hash may expire.
--
-- KEYS  1 the control hash   2 rq:job:<job>
-- ARGV  1 <job>   2 lifetime of the job's record in seconds
-- Returns 1, or 0 if nothing was changed
local status, origin = unpack(redis.call('HMGET', KEYS[2], 'status', 'origin'))
if redis.call('HGET', KEYS[1], 'state') ~= 'cancelled' then
  return 0
end
if status and not origin then
  return 0 -- its queue is not known; the worker that takes it drops it, since its stream is closed
end
if status ~= 'started' then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
if (status ~= 'queued' and status ~= 'deferred' and status ~= 'scheduled') then
  return 0
end
redis.call('LREM', 'rq:queue:' .. origin, 0, ARGV[1])
if status ~= 'queued' then
  redis.call('ZREM', 'rq:' .. status .. ':' .. origin, ARGV[1])
end
redis.call('HSET', KEYS[2], 'status', 'canceled')
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', 'rq:canceled:' .. origin, redis.call('TIME')[1], ARGV[1])
return 1
