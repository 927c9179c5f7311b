#!lua flags=allow-oom
-- Restore the outbox commands that Redis lost, at the head of their lanes; then unblock claims.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, lease, last (1: nothing follows, unblock claims; else 0), wake ms, batch commands, batch lanes,
--          then per lane: user, number of entries, the entries: all that the lane lost, in order
-- Returns  {wake (0 or 1), {per lane: how many were restored}}
--          or {"LOST"}, and nothing was done: the lease was lost
--
-- Keeps:   Commands pushed since the loss stay behind the lost ones. A lane is restored in one step, and skipped if it
--          holds the first of these entries already, so a restore can be repeated.
--          It must work when memory is full: nothing can be drained while claims are blocked.

local tag = ARGV[1]
if redis.call('GET', tag .. 'relay') ~= ARGV[2] then return { 'LOST' } end

local now = clock()
local stamp = string.format('%013.0f', now)
local SIZE, FROM = 32, 18 -- codec.IDENTITY_BYTES; codec.IDENTITY_AT, counted from 1
local answers = {}

local function holds(lane, identity)
  local at = 0
  while true do
    local part = redis.call('LRANGE', lane, at, at + 999)
    for _, entry in ipairs(part) do
      if string.sub(entry, FROM, FROM + SIZE - 1) == identity then return true end
    end
    if #part < 1000 then return false end
    at = at + 1000
  end
end

local at = 7
while at <= #ARGV do
  local user, count = ARGV[at], tonumber(ARGV[at + 1])
  local lane = tag .. 'lane:' .. user
  local ok, present = pcall(holds, lane, string.sub(ARGV[at + 2], FROM - 13, FROM - 14 + SIZE))
  if not ok or present then -- not a list, or its head was not lost
    answers[#answers + 1] = 0
  else
    local entries = {}
    for i = at + 1 + count, at + 2, -1 do entries[#entries + 1] = stamp .. ARGV[i] end
    if not redis.call('ZSCORE', tag .. 'claimed', user) then redis.call('ZADD', tag .. 'ready', 'NX', now, user) end
    redis.call('INCRBY', tag .. 'count', count)
    in_steps('LPUSH', lane, entries)
    answers[#answers + 1] = count
  end
  at = at + 2 + count
end
if ARGV[3] == '1' then redis.call('SET', tag .. 'filled', stamp) end
return { reserve_wake(tag, now, tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])), answers }
