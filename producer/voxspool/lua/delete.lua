-- Deletes every trace of a job: its stream, its state, what its readers and other workers noted, and RQ's records. A run
-- that still has it loses its lease and its stream, so it can write nothing more.
--
-- KEYS  1 the chapters that workers narrate, if its engine is known   2 voxspool:open   3 rq:job:<job>
--       4 the control hash   5 rq:executions:<job>   6.. other keys of the job
-- ARGV  1 <job>
-- Returns the number of keys that existed
local job = ARGV[1]
local found = redis.call('EXISTS', unpack(KEYS, 3))
local origin = redis.call('HGET', KEYS[3], 'origin')
local holder = redis.call('HGET', KEYS[4], 'holder')
local runs = redis.call('ZRANGE', KEYS[5], 0, -1)
table.insert(runs, holder or nil)
for _, run in ipairs(runs) do
  local composite = job .. ':' .. run
  local worker = redis.call('HGET', 'rq:execution:' .. composite, 'worker_name')
  if worker then
    redis.call('SREM', 'rq:worker:' .. worker .. ':executions', composite)
  end
  redis.call('DEL', 'rq:execution:' .. composite)
  if origin then
    redis.call('ZREM', 'rq:wip:' .. origin, composite)
  end
end
if origin then
  for _, registry in ipairs({'finished', 'failed', 'canceled', 'deferred', 'scheduled', 'ready'}) do
    redis.call('ZREM', 'rq:' .. registry .. ':' .. origin, job)
  end
  redis.call('LREM', 'rq:queue:' .. origin, 0, job)
end
redis.call('ZREM', KEYS[1], job)
redis.call('ZREM', KEYS[2], job)
redis.call('DEL', unpack(KEYS, 3))
return found
