#!lua flags=allow-oom
-- End a drain that has work left: its time is over, or its worker was asked to stop.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, drain, wake ms, batch commands, batch lanes
-- Returns  1 if the caller should enqueue a wake-up for its successor
--
-- Keeps:   The drain leaves and the successor's wake-up is reserved in one step, so while a lane is due the partition
--          has a live drain or a wake-up. A drain that made no claim, because the database is away, has not cleared
--          the reservation of its own wake-up, which would keep successors from being woken until it expires.

local tag = ARGV[1]
if redis.call('ZREM', tag .. 'drains', ARGV[2]) == 0 then redis.call('DEL', tag .. 'wake') end
return reserve_wake(tag, clock(), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
