#!lua flags=allow-oom
-- Pause a partition, or one user's lane in it; or change the pause that there is.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, who ("*": the whole partition; else a user), for how long (ms; 0: until it is resumed),
--          by whom and why ("actor|reason"), most pauses of one partition
-- Returns  {the pause before ("": none), the pause now}, each "since until actor|reason"; or {"FULL"}
--
-- Keeps:   No claim after this takes anything of it; claims in hand stay with their drains. A pause that is changed
--          keeps its beginning. A user's lane that is ready is parked in the same step.

local tag, who, for_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local paused, now = tag .. 'paused', clock()
local before = pause_of(tag, now, who)
if redis.call('HEXISTS', paused, who) == 0 and redis.call('HLEN', paused) >= tonumber(ARGV[5]) then
  return { 'FULL' }
end
local since = before and string.match(before, '^%d+') or string.format('%.0f', now)
local ends = for_ms > 0 and string.format('%.0f', now + for_ms) or '0'
local pause = since .. ' ' .. ends .. ' ' .. ARGV[4]
redis.call('HSET', paused, who, pause)
if redis.call('ZSCORE', tag .. 'ready', who) then park_paused(tag, who, pause) end
return { before or '', pause }
