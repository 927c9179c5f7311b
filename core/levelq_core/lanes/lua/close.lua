#!lua flags=allow-oom
-- Close a partition: the number of its specialization's shards changes.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, the layout after it
-- Returns  how many of its lanes are due, parked or claimed
--
-- Keeps:   a push is either in a lane that is counted here or answered MOVED, so a partition that was closed and
--          found empty stays empty. Closing it again changes nothing, and puts back what Redis has lost.

local tag = ARGV[1]
redis.call('SET', tag .. 'closed', ARGV[2])
return redis.call('ZCARD', tag .. 'ready') + redis.call('ZCARD', tag .. 'claimed')
