#!lua flags=allow-oom
-- End a drain that has work left: its slice of time is over, or its worker was asked to stop.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, drain, wake ms, batch commands, batch lanes
-- Returns  1 if the caller should enqueue a wake-up for its successor
--
-- Keeps:   leaving and reserving the successor's wake-up are one step, so the partition is never without
--          either a live drain or a wake-up on its way while a lane is due. A drain that never came to its
--          first claim, because the database is away, has not cleared the reservation of the wake-up that
--          started it: left standing, it would keep successors from being woken until it expires.

local tag = ARGV[1]
if redis.call('ZREM', tag .. 'drains', ARGV[2]) == 0 then redis.call('DEL', tag .. 'wake') end
return reserve_wake(tag, clock(), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
