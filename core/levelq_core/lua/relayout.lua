#!lua flags=allow-oom
-- Put one layout of a specialization in the place of another.
--
-- KEYS[1]  levelq:shards
-- ARGV     specialization, the layout that is expected there, the new one
-- Returns  1 if it was done, 0 if another was there
--
-- Keeps:   of two who change the same layout, one is told that somebody else has.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
