#!lua flags=allow-oom
-- Bind the namespace to a database, unless it is bound to another.
--
-- KEYS[1]  <namespace>:database
-- ARGV     the database, the binding that it may replace (empty: none)
-- Returns  the database that the namespace is bound to now
--
-- Keeps:   Of two databases that bind at the same moment, one gets the other as the reply.

local bound = redis.call('GET', KEYS[1])
if bound and bound ~= ARGV[2] then return bound end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
