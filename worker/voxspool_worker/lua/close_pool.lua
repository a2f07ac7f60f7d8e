-- Deletes the segment queue of a chapter, unless the chapter is running or waits for its next run.
--
-- KEYS  1 the segment queue   2 the unspoken segments   3 the results   4 the control hash of the job
-- Returns 1 if the queue is gone, 0 if it was kept
if redis.call('HGET', KEYS[4], 'state') == 'running' then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
