-- Takes the first job from the first queue that has one and is not paused, and claims it for a run. Both are one step:
-- a job is always in a queue or under a lease. The records of a running job are written in RQ's format.
--
-- Any program may write to these keys. A key of another type stops only its own queue: the types are looked at before
-- the first write, because a failed script keeps what it wrote. A job whose hash is too large is claimed, so that it can
-- be marked failed, but its fields are not sent.
--
-- KEYS  1 rq:suspended   2 voxspool:paused   3.. the queues, in the order in which to empty them
-- ARGV  1 execution   2 worker   3 lease in seconds   4 the time in RQ's format   5.. names of the queues, as in KEYS;
--       then the host of the worker, "1" if the worker has completed a segment since it started, "1" if it runs no
--       other job, and "1" to pass over doubtful jobs: at least two workers died of such a job, all on this host, and it
--       is not known what of
-- Returns {word, …, spoilt}; spoilt lists the keys of another type, each as "<key> is a <type>, not a <type>":
--       {"job", number of the queue (from 0), job id, fields of the job's hash before the claim, why these fields are
--         missing or '', spoilt}
--       | {"suspended", spoilt}
--       | {"paused", numbers of queues (from 0), spoilt} (nothing was taken; these queues have jobs, but are paused, or
--         have only doubtful jobs at their start)
--       | {"again", spoilt} (many ids without a job were removed, and nothing was taken: call again)
--       | {"none", spoilt} (no queue has a job)
local MOST_REMOVED = 1000
local MOST_ID_BYTES = 1000 -- an id of voxspool has at most 128
local MOST_BYTES = 8 * 2^20 -- of a job's hash in memory: twice the longest call, uncompressed
local MOST_FIELDS = 100 -- RQ writes some 40
local MOST_PASSED_OVER = 32
local POISON_DEATHS = 4 -- as many deaths on one host decide: see JobExecution.is_poison
local spoilt, paused, removed = {}, {}, 0
local host, completed, alone, passes_over = unpack(ARGV, 3 + #KEYS)

local function has_type(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found == wanted or found == 'none' then
    return true, found ~= 'none'
  end
  table.insert(spoilt, key .. ' is a ' .. found .. ', not a ' .. wanted)
  return false, true
end

local function claim(number, name, id)
  local job, composite = 'rq:job:' .. id, id .. ':' .. ARGV[1]
  local execution, executions = 'rq:execution:' .. composite, 'rq:executions:' .. id
  local of_worker = 'rq:worker:' .. ARGV[2] .. ':executions'
  local count, size, fields, problem = redis.call('HLEN', job), 0, {}, ''
  if count <= MOST_FIELDS then
    size = redis.call('MEMORY', 'USAGE', job, 'SAMPLES', 0)
  end
  if count > MOST_FIELDS then
    problem = string.format('its hash has %d fields, and the limit is %d', count, MOST_FIELDS)
  elseif size > MOST_BYTES then
    problem = string.format('its hash has %d bytes, and the limit is %d', size, MOST_BYTES)
  else
    fields = redis.call('HGETALL', job)
  end
  -- A key of another type in place of a record that only this run and RQ's tools use is replaced.
  for key, wanted in pairs({[executions] = 'zset', [of_worker] = 'set'}) do
    local found = redis.call('TYPE', key).ok
    if found ~= wanted and found ~= 'none' then
      redis.call('DEL', key)
    end
  end
  local now, lease = redis.call('TIME')[1], tonumber(ARGV[3])
  redis.call('HSET', execution, 'id', ARGV[1], 'job_id', id, 'created_at', now, 'last_heartbeat', now,
    'worker_name', ARGV[2], 'host', host or '', 'completed', completed or '',
    'alone', alone or '')
  redis.call('EXPIRE', execution, lease + 60)
  redis.call('ZADD', executions, now + lease + 60, ARGV[1])
  redis.call('EXPIRE', executions, lease + 60)
  redis.call('ZADD', 'rq:wip:' .. name, now + lease, composite)
  redis.call('SADD', of_worker, composite)
  redis.call('HSET', job, 'status', 'started', 'started_at', ARGV[4], 'last_heartbeat', ARGV[4],
    'worker_name', ARGV[2], 'origin', name)
  redis.call('PERSIST', job)
  return {'job', number, id, fields, problem, spoilt}
end

local function is_doubtful(id)
  local deaths, died_on, blamed = unpack(redis.pcall('HMGET', 'rq:job:' .. id, 'deaths', 'died_on', 'blamed'))
  deaths = tonumber(deaths) or 0 -- a key of another type gives an error, which has no deaths
  return deaths >= 2 and deaths < POISON_DEATHS and died_on == host and blamed ~= '1'
end

local function pop(queue) -- returns an id, or false and whether jobs were passed over
  if passes_over ~= '1' then
    return redis.call('LPOP', queue), false
  end
  local first = redis.call('LRANGE', queue, 0, MOST_PASSED_OVER - 1)
  for _, id in ipairs(first) do
    if #id > MOST_ID_BYTES or not is_doubtful(id) then
      redis.call('LREM', queue, 1, id)
      return id, false
    end
  end
  return false, #first > 0
end

local waiting = {}
for i = 3, #KEYS do
  local usable, exists = has_type(KEYS[i], 'list')
  if usable and exists and has_type('rq:wip:' .. ARGV[i + 2], 'zset') then
    table.insert(waiting, i)
  end
end
local usable, pauses = has_type(KEYS[2], 'set')
if #waiting == 0 then
  return {'none', spoilt}
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'suspended', spoilt}
end
for _, i in ipairs(waiting) do
  local name = ARGV[i + 2]
  if usable and pauses and redis.call('SISMEMBER', KEYS[2], name) == 1 then
    table.insert(paused, i - 3)
  else
    local id, passed = pop(KEYS[i])
    while id do
      if #id <= MOST_ID_BYTES and redis.call('TYPE', 'rq:job:' .. id).ok == 'hash' then
        return claim(i - 3, name, id)
      end
      removed = removed + 1 -- the job was deleted while it waited
      if removed >= MOST_REMOVED then
        return {'again', spoilt}
      end
      id, passed = pop(KEYS[i])
    end
    if passed then
      table.insert(paused, i - 3)
    end
  end
end
if #paused > 0 then
  return {'paused', paused, spoilt}
end
return {'none', spoilt}
