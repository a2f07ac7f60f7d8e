-- Pushes back the jobs of one queue that were popped and never claimed: their worker died in between, or the reply to
-- its pop was lost. RQ's own maintenance would fail them after a minute, or use up a retry.
--
-- KEYS  1 the queue's intermediate list   2 rq:queue:<queue>   3 hash: job id -> when it was first seen here, in ms
-- ARGV  1 how long a job may lie here, in ms   2 prefix of RQ's job hashes
-- gives the ids that were pushed back
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local here, back = {}, {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local seen = redis.call('HGET', KEYS[3], id)
  if not seen then
    redis.call('HSET', KEYS[3], id, now_ms)
    here[id] = true
  elseif now_ms - tonumber(seen) < tonumber(ARGV[1]) then
    here[id] = true
  else
    redis.call('LREM', KEYS[1], 1, id)
    local status = redis.call('HGET', ARGV[2] .. id, 'status')
    if status == 'queued' or (not status and redis.call('EXISTS', ARGV[2] .. id) == 1) then
      redis.call('LPUSH', KEYS[2], id)
      back[#back + 1] = id
    end
  end
end
for _, id in ipairs(redis.call('HKEYS', KEYS[3])) do
  if not here[id] then
    redis.call('HDEL', KEYS[3], id)
  end
end
return back
