#!lua flags=allow-oom
-- Put one layout of a specialization in the place of another, or where there is none.
--
-- KEYS[1]  <namespace>:shards
-- ARGV     specialization, the layout that is expected there, the new one
-- Returns  1 if it was done, 0 if there is one that was not expected
--
-- Keeps:   of two who change the same layout, one is told that somebody else has.

local there = redis.call('HGET', KEYS[1], ARGV[1])
if there and there ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
