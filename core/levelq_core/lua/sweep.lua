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
local wake_ms = tonumber(ARGV[3])
local wake = reserve_wake(tag, now, wake_ms, tonumber(ARGV[4]), tonumber(ARGV[5]))

-- Due for longer than a reservation lasts, and no drain lives: the wake-ups do not arrive. A sender who cannot
-- reach RQ would go on to reserve each of them before we can, so what is reserved is taken over, once in its time.
local first = redis.call('ZRANGE', tag .. 'ready', 0, 0, 'WITHSCORES')
if first[2] and tonumber(first[2]) < now - wake_ms and redis.call('ZCARD', tag .. 'drains') == 0
  and wake == 0 and redis.call('GET', tag .. 'wake') ~= 'sweep' then
  redis.call('SET', tag .. 'wake', 'sweep', 'PX', wake_ms)
  wake = 1
end
return { wake, returned }
