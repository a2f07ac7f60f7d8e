-- Renews the turn to compute a voice's conditioning, or gives it back; a turn that is another's by now is left alone.
--
-- KEYS  1 the lock
-- ARGV  1 token of its holder   2 lifetime of the lock in ms; 0: it is given back
-- gives 1, or 0 where the turn is another's, or nobody's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
