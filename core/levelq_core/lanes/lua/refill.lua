#!lua flags=allow-oom
-- Put back at the head of their lanes the outbox commands that Redis lost; then unblock the claims.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, lease, last (1: nothing follows, unblock the claims; else 0), wake ms, batch commands, batch lanes,
--          then per lane: user, number of entries, the entries: all that the lane lost, in order
-- Returns  {wake (0 or 1), {per lane: how many were put back}} or {"LOST"}, and nothing was done: the lease is
--          not ours
--
-- Keeps:   what producers have pushed since the loss stays behind what was lost. A lane is put back in one
--          step, and left alone if it holds the first of these entries already, so that a restore may be
--          repeated. It must work when memory is full: until it ends nothing can be drained.

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
  if not ok or present then -- not a list, or nothing of it was lost from the head
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
