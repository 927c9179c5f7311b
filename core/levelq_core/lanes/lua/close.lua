#!lua flags=allow-oom
-- Close a partition, because the shard count of its specialization changes.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, the next layout
-- Returns  how many of its lanes are due, parked or claimed
--
-- Keeps:   A push is either in a lane counted here or answered MOVED, so a closed partition that is empty stays empty.
--          Closing it again changes nothing, unless Redis has lost the mark.

local tag = ARGV[1]
redis.call('SET', tag .. 'closed', ARGV[2])
return redis.call('ZCARD', tag .. 'ready') + redis.call('ZCARD', tag .. 'claimed')
