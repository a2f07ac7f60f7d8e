-- Renews a worker's entries: RQ's record of the worker, and the card that lists what the worker offers.
--
-- The first write is an EXPIRE because Redis at its memory limit refuses a script whose first write may need memory,
-- and allows all later writes. A worker that waits for memory must not look dead.
--
-- KEYS  1 the card   2 voxspool:workers   3 rq:worker:<worker>   4 rq:workers   5 rq:worker:<worker>:executions
--       6.. rq:workers:<queue>, for each of its queues
-- ARGV  1 worker   2 lifetime in seconds   3 lifetime of KEYS[5] in seconds
--       4 number of the following items that belong to the card   5.. field, value: of the card, then of RQ's record
--
-- A list of another type stops neither the worker nor the other lists.
-- Returns the keys of another type, each as "<key> is a <type>, not a set"
local spoilt = {}

local function add(list, member)
  local found = redis.call('TYPE', list).ok
  if found == 'set' or found == 'none' then
    redis.call('SADD', list, member)
  else
    table.insert(spoilt, list .. ' is a ' .. found .. ', not a set')
  end
end

redis.call('EXPIRE', KEYS[5], ARGV[3])
local card = 4 + tonumber(ARGV[4])
for _, own in ipairs({KEYS[1], KEYS[3]}) do
  local found = redis.call('TYPE', own).ok
  if found ~= 'hash' and found ~= 'none' then
    redis.call('DEL', own)
  end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 5, card))
redis.call('EXPIRE', KEYS[1], ARGV[2])
add(KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], unpack(ARGV, card + 1))
redis.call('EXPIRE', KEYS[3], ARGV[2])
add(KEYS[4], KEYS[3])
for list = 6, #KEYS do
  add(KEYS[list], KEYS[3])
end
return spoilt
