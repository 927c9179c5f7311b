#!lua flags=allow-oom
-- Put right what a dead worker left: expired claims, due lanes without a drain.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, claim ms, wake ms, batch commands, batch lanes
-- Returns  {wake (0 or 1), claims returned}
--
-- Keeps:   whatever a drain, a wake-up or a worker did or failed to do, a due lane gets a wake-up within
--          one sweep of the end of its claim.

local tag, now = ARGV[1], clock()
local returned = return_expired(tag, now, tonumber(ARGV[2]))
redis.call('ZREMRANGEBYSCORE', tag .. 'drains', '-inf', now)
return { reserve_wake(tag, now, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])), returned }
