#!lua flags=allow-oom
-- Repair what dead workers left: expired claims, due lanes without a drain, a wrong count. End pauses that are over.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, claim ms, wake ms, batch commands, batch lanes
-- Returns  {wake (0 or 1), claims returned, by how much the count was wrong (above zero: too high)}
--
-- Keeps:   A due lane gets a wake-up within one sweep after its claim ends, whichever drain, wake-up or worker died.
--          The count is the number of entries in the lanes of ready and claimed: all are read and the count is set in
--          one step, so no push or acknowledgement falls between.
--          A lane that was parked for a pause is due within one sweep after the pause is over or was removed.

local tag, now = ARGV[1], clock()
local claim_ms, wake_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
local returned = return_expired(tag, now, claim_ms)
-- A registration that ends later than a new one would is from before the clock was set back, or of another program.
local drains = tag .. 'drains'
if unless_wrong(nil, 'ZREMRANGEBYSCORE', drains, '-inf', now) then
  redis.call('ZREMRANGEBYSCORE', drains, '(' .. now + claim_ms, '+inf')
else
  redis.call('DEL', drains) -- of another type; live drains register with their next claim
end
-- A key that lasts longer than a new one was written by another program, and would keep others from being reserved.
local function unless_endless(key, most_ms)
  local left = redis.call('PTTL', key)
  if left == -1 or left > most_ms then redis.call('DEL', key) end
end
unless_endless(tag .. 'wake', wake_ms)

-- Up to AT_ONCE lanes are read at each sweep. More, up to AT_MOST, are read once in as many milliseconds as there are
-- lanes, by the first worker that sweeps, so that it takes little of the server's time.
local AT_ONCE, AT_MOST = 1000, 100000
local function recount()
  local lanes = redis.call('ZCARD', tag .. 'ready') + redis.call('ZCARD', tag .. 'claimed')
  if lanes > AT_MOST then return 0 end
  unless_endless(tag .. 'recounted', AT_MOST)
  if lanes > AT_ONCE and not redis.call('SET', tag .. 'recounted', '1', 'NX', 'PX', lanes) then return 0 end
  local sum = standing(tag)
  local stored = unless_wrong('', 'GET', tag .. 'count') or '0'
  if stored == string.format('%.0f', sum) then return 0 end -- not '0x1': INCRBY refuses that
  if sum == 0 then
    redis.call('DEL', tag .. 'count', tag .. 'progress')
  else
    redis.call('SET', tag .. 'count', string.format('%.0f', sum))
  end
  return (tonumber(stored) or 0) - sum
end
local wrong = recount()

local ready = tag .. 'ready'
local MOST_PAUSES = 1000 -- pause.lua allows no more
if unless_wrong(MOST_PAUSES + 1, 'HLEN', tag .. 'paused') <= MOST_PAUSES then
  local pauses = redis.call('HGETALL', tag .. 'paused')
  for i = 1, #pauses, 2 do
    local readable = string.find(pauses[i + 1], '^%d+ %d+ [^|]*|')
    if readable and not pause_of(tag, now, pauses[i]) then redis.call('HDEL', tag .. 'paused', pauses[i]) end
  end
end
for _, user in ipairs(redis.call('ZRANGEBYSCORE', ready, PAUSED, PAUSED, 'LIMIT', 0, 2 * MOST_PAUSES)) do
  if not pause_of(tag, now, user) then
    redis.call('ZADD', ready, now, user)
    redis.call('HDEL', tag .. 'parked', user)
  end
end

local wake = reserve_wake(tag, now, wake_ms, tonumber(ARGV[4]), tonumber(ARGV[5]))

-- Lanes are due for longer than a reservation lasts, and no drain lives: wake-ups do not arrive. A sender that cannot
-- reach RQ would always reserve the next one first, so the sweep takes the reservation over, once while it lasts.
local first = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
if first[2] and tonumber(first[2]) < now - wake_ms and redis.call('ZCARD', tag .. 'drains') == 0
  and wake == 0 and redis.call('GET', tag .. 'wake') ~= 'sweep' and not pause_of(tag, now, '*') then
  redis.call('SET', tag .. 'wake', 'sweep', 'PX', wake_ms)
  wake = 1
end
return { wake, returned, wrong }
