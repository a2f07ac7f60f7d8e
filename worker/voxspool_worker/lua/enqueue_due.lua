-- Puts a scheduled job whose time has come into its queue. If several workers try, one does it.
--
-- KEYS  1 rq:scheduled:<queue>   2 rq:queue:<queue>   3 rq:job:<job>   4 rq:queues
-- ARGV  1 <job>   2 <queue>   3 the time in RQ's format
-- Returns 1, or 0 if it is not scheduled any more, or was deleted
-- Commands that may fail (on a key of another type) come first: a failed script keeps the writes before the error.
local exists, front = redis.call('EXISTS', KEYS[3]), redis.call('HGET', KEYS[3], 'enqueue_at_front')
redis.call('LLEN', KEYS[2])
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 or exists == 0 then
  return 0
end
redis.call('HSET', KEYS[3], 'status', 'queued', 'origin', ARGV[2], 'enqueued_at', ARGV[3])
redis.call('SADD', KEYS[4], KEYS[2])
redis.call(front == '1' and 'LPUSH' or 'RPUSH', KEYS[2], ARGV[1])
return 1
