#!lua flags=allow-oom
-- Bind the namespace to a database, or find out which one it is bound to.
--
-- KEYS[1]  <namespace>:database
-- ARGV     the database, the binding that it may replace (empty: only none)
-- Returns  the database that the namespace is bound to now
--
-- Keeps:   of two databases that bind at the same moment, one gets the other's as the answer.

local bound = redis.call('GET', KEYS[1])
if bound and bound ~= ARGV[2] then return bound end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
