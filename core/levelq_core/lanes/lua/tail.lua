#!lua flags=allow-oom,no-writes
-- Read whether an entry of a lane still waits, and why. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, user, entry (with its stamp; "": the newest one of the lane)
-- Returns  {the entry ("": the lane is empty), how many entries wait up to it (0: it is gone), the run id of the server,
--          when the outbox was restored ("": never), why the lane is parked or its partition paused ("": it is not),
--          claimed (0 or 1), how many drains work on the partition}
--
-- Keeps:   Entries are only removed once they are decided, from the head; but a cancelled one wherever it is. So it
--          waits while the head was stamped no later: then entries that were pushed before it wait.
--          If Redis lost it, the run id or the time of the restore is another. Where INFO is not allowed, only the
--          latter shows that.
--          The search begins at the newest entry. An entry of the same bytes that was pushed later counts as this one.

local tag, user, entry = ARGV[1], ARGV[2], ARGV[3]
local lane = tag .. 'lane:' .. user
local waits = 0
if entry ~= '' then
  local index = redis.call('LPOS', lane, entry, 'RANK', -1)
  local head = redis.call('LINDEX', lane, 0)
  if index then
    waits = index + 1
  elseif head and string.sub(head, 1, 13) <= string.sub(entry, 1, 13) then
    waits = 1
  end
else
  waits = unless_wrong(0, 'LLEN', lane)
  entry = waits > 0 and redis.call('LINDEX', lane, -1) or ''
end
local note = unless_wrong('', 'HGET', tag .. 'parked', user) or ''
local pause = pause_of(tag, clock(), '*')
return {
  entry,
  waits,
  string.match(unless_wrong('', 'INFO', 'server'), 'run_id:(%x+)') or '',
  redis.call('GET', tag .. 'filled') or '',
  string.match(note, '^%d+ %d+ (.*)$') or pause and 'its partition is ' .. paused_by(pause) or '',
  redis.call('ZSCORE', tag .. 'claimed', user) and 1 or 0,
  unless_wrong(0, 'ZCOUNT', tag .. 'drains', '(' .. clock(), '+inf'),
}
