#!lua flags=allow-oom
-- Replace the layout of a specialization, or write the first one.
--
-- KEYS[1]  <namespace>:shards
-- ARGV     specialization, the layout that is expected, the new layout
-- Returns  1 if it was written, 0 if there is another layout than expected
--
-- Keeps:   Of two processes that change the same layout at once, one is refused.

local there = redis.call('HGET', KEYS[1], ARGV[1])
if there and there ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
