-- Takes the first job from the first queue that has one and is not paused, and claims it for a run. Both are one step:
-- a job is always in a queue or under a lease. The records of a running job are written in RQ's format.
--
-- KEYS  1 rq:suspended   2 voxspool:paused   3.. the queues, in the order in which to empty them
-- ARGV  1 execution   2 worker   3 lease in seconds   4 the time in RQ's format   5.. names of the queues, as in KEYS
-- Returns {"job", number of the queue (from 0), job id, fields of the job's hash before the claim} | "suspended"
--       | {"paused", numbers of queues (from 0)} (nothing was taken; these queues are paused and have jobs)
--       | false (no queue has a job)
if redis.call('EXISTS', unpack(KEYS, 3)) == 0 then
  return false
end
local stopped, paused = redis.call('EXISTS', KEYS[1], KEYS[2]) > 0, {'paused'}
if stopped and redis.call('EXISTS', KEYS[1]) == 1 then
  return 'suspended'
end
for i = 3, #KEYS do
  local name, id = ARGV[i + 2], false
  if not stopped or redis.call('SISMEMBER', KEYS[2], name) == 0 then
    id = redis.call('LPOP', KEYS[i])
  elseif redis.call('EXISTS', KEYS[i]) == 1 then
    table.insert(paused, i - 3)
  end
  while id do
    local job = 'rq:job:' .. id
    local fields = redis.call('HGETALL', job)
    if #fields > 0 then -- otherwise the job was deleted while it waited
      local now, lease = redis.call('TIME')[1], tonumber(ARGV[3])
      local composite = id .. ':' .. ARGV[1]
      local execution, executions = 'rq:execution:' .. composite, 'rq:executions:' .. id
      redis.call('HSET', execution, 'id', ARGV[1], 'job_id', id, 'created_at', now, 'last_heartbeat', now,
        'worker_name', ARGV[2])
      redis.call('EXPIRE', execution, lease + 60)
      redis.call('ZADD', executions, now + lease + 60, ARGV[1])
      redis.call('EXPIRE', executions, lease + 60)
      redis.call('ZADD', 'rq:wip:' .. name, now + lease, composite)
      redis.call('SADD', 'rq:worker:' .. ARGV[2] .. ':executions', composite)
      redis.call('HSET', job, 'status', 'started', 'started_at', ARGV[4], 'last_heartbeat', ARGV[4],
        'worker_name', ARGV[2])
      redis.call('PERSIST', job)
      return {'job', i - 3, id, fields}
    end
    id = redis.call('LPOP', KEYS[i])
  end
end
return #paused > 1 and paused or false
