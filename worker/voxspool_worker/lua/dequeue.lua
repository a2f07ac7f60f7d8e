-- Pops the first job of the first queue that has one and is not paused, and claims it for a run, in one step: there is no
-- moment in which a job lies in no queue and belongs to nobody. What RQ keeps of a running job is written as RQ writes it.
--
-- KEYS  1 rq:suspended   2 voxspool:paused   3.. the queues, the first to be emptied first
-- ARGV  1 execution   2 worker   3 lease in seconds   4 the time, as RQ writes it   5.. the queues' names, as in KEYS
-- gives {"job", which queue (from 0), job id, the fields of its hash before the claim} | "suspended" | false
--       | {"paused", which queues (from 0)} (nothing was taken, and there are jobs in queues that are paused)
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
    if #fields > 0 then -- else it was deleted while it waited
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
