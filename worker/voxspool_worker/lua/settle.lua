-- Looks at a job whose stream was open: closes the stream if no worker will, because RQ has lost the job. RQ's tools and
-- dashboards can cancel, delete or fail a job while its worker is dead, empty its queue, or delete RQ's keys. A job that
-- RQ counts as started, and that has no lease, would never be put back: it goes to the front of its queue.
--
-- The first write is a ZADD or ZREM of a member that exists, or an EXPIRE; Redis at its memory limit may refuse it, and
-- the job is looked at again.
--
-- KEYS  1 voxspool:open   2 the audio stream   3 the control hash   4 rq:job:<job>   5 rq:executions:<job>
--       6 rq:wip:<queue>   7 rq:queue:<queue>
-- ARGV  1 <job>   2 <queue>: `origin` of the job's hash, '' if there is none
--       3 the time in ms by which a lease must have ended to count as expired
--       4 data of a cancelled entry   5 data of a failed entry   6 lifetime of the closed stream in seconds
--       7 interval between two looks at a job that waits, in seconds   8 "1" if <queue> is a queue of voxspool
-- Returns "closed" (it was closed already, or is gone) | "running" | "waiting" | "cancelled" | "failed" | "requeued"
local open, stream, control, record, runs, wip, queue = unpack(KEYS)
local job = ARGV[1]
local now = tonumber(redis.call('TIME')[1])

local function later(word, at)
  redis.call('ZADD', open, 'XX', at, job)
  return word
end

local function has_type(key, wanted)
  local found = redis.call('TYPE', key).ok
  return found == wanted or found == 'none'
end

if not has_type(control, 'hash') then -- other programs wrote it: a run fails, and a reader too
  redis.call('ZREM', open, job)
  return 'closed'
end
local state, holder, lease_until, pos, attempt = unpack(
  redis.call('HMGET', control, 'state', 'holder', 'lease_until', 'pos', 'attempt'))
if state ~= 'running' then
  redis.call('ZREM', open, job)
  return 'closed'
end
lease_until = tonumber(lease_until) or 0
if holder and lease_until > tonumber(ARGV[3]) then
  return later('running', math.min(math.ceil(lease_until / 1000), now + 60))
end

local status, origin
if has_type(record, 'hash') then
  status, origin = unpack(redis.call('HMGET', record, 'status', 'origin'))
end
local given_up = status == 'failed' or status == 'finished'
if status and status ~= 'canceled' and status ~= 'stopped' and not given_up then
  if origin ~= ARGV[2] or ARGV[8] ~= '1' or not has_type(wip, 'zset') or not has_type(queue, 'list') then
    return later('waiting', now + ARGV[7]) -- it was moved meanwhile, or its queue cannot be read
  end
  if status == 'queued' then
    if redis.call('LPOS', queue, job) then
      return later('waiting', now + ARGV[7])
    end -- otherwise its queue was emptied
  elseif status == 'started' then
    local running = has_type(runs, 'zset') and redis.call('ZRANGE', runs, -10, -1) or {}
    table.insert(running, holder or nil)
    for _, run in ipairs(running) do
      if redis.call('ZSCORE', wip, job .. ':' .. run) then
        return later('running', now + 3) -- it runs, or is put back when this lease expires
      end
    end
    redis.call('HDEL', control, 'holder', 'lease_until')
    redis.call('HSET', record, 'status', 'queued', 'worker_name', '')
    redis.call('LPUSH', queue, job)
    return later('requeued', now + ARGV[7])
  else
    return later('waiting', now + ARGV[7])
  end
end

redis.call('ZREM', open, job)
attempt = math.floor(tonumber(attempt) or 0) + 1
if has_type(stream, 'stream') then
  redis.call('EXPIRE', stream, ARGV[6])
  redis.pcall('XADD', stream, string.format('%.0f-1', attempt), 'type', given_up and 'failed' or 'cancelled',
    'pos', pos or '0', 'data', given_up and ARGV[5] or ARGV[4])
  redis.call('EXPIRE', stream, ARGV[6])
end
redis.call('HSET', control, 'attempt', string.format('%.0f', attempt), 'seq', 1,
  'state', given_up and 'failed' or 'cancelled')
redis.call('HDEL', control, 'holder', 'lease_until')
redis.call('EXPIRE', control, ARGV[6])
return given_up and 'failed' or 'cancelled'
