-- Takes a chapter's pool away, if the chapter is over; not while a run has it, or it waits for the next.
--
-- KEYS  1 the pool   2 the unspoken segments   3 the results   4 the job's control hash
-- gives 1 where nothing of it is there any more, 0 where it is left
if redis.call('HGET', KEYS[4], 'state') == 'running' then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
