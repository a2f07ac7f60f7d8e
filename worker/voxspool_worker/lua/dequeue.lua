-- Moves the first job of the first queue that has one to that queue's intermediate list.
--
-- KEYS  queue, its intermediate list, queue, its intermediate list …, the first to be emptied first
-- gives {which queue (from 0), job id} | false
for i = 1, #KEYS, 2 do
  local id = redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'LEFT', 'RIGHT')
  if id then
    return {(i - 1) / 2, id}
  end
end
return false
