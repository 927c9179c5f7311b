#!lua
-- Append commands to their lanes.
--
-- KEYS[1]  tag .. "ready", which names the slot; all other keys are built from the tag
-- ARGV     tag, lane limit, partition limit, wake ms, batch commands, batch lanes,
--          then per lane: user, number of entries, the entries
-- Returns  {wake (0 or 1), {per lane: how many were accepted, and why not all: "lane" or "partition" (limits), "type"
--          (the lane's key is no list)}, the stamp}
--          or {"MOVED"}: the partition was closed by a change of the shard count
--
-- Keeps:   A lane that holds commands is in ready or claimed. So all lanes enter ready before any grows: Redis does
--          not roll back a script that fails midway, and an empty lane in ready does no harm.
--          A not-before time in the future is never lowered (NX).
--          A refused command is refused together with all that follow it in its lane in this call.

local tag = ARGV[1]
local lane_limit, partition_limit = tonumber(ARGV[2]), tonumber(ARGV[3])

local closed, before, woken = unpack(redis.call('MGET', tag .. 'closed', tag .. 'count', tag .. 'wake'))
if closed then return { 'MOVED' } end

local now = clock()
local stamp = string.format('%013.0f', now)
before = tonumber(before or '0')
if not before then -- not a number: there is no limit until the next sweep counts
  redis.call('DEL', tag .. 'count')
  before = 0
end
local total = before
local answers, users, grows = {}, {}, {}
local at = 7
while at <= #ARGV do
  local user, sent = ARGV[at], tonumber(ARGV[at + 1])
  -- Under pcall: an error would leave the push half done.
  local is_list, length = pcall(redis.call, 'LLEN', tag .. 'lane:' .. user)
  -- A restore may have gone beyond a limit: there is no room then, not less than none.
  local room_in_lane = is_list and math.max(0, lane_limit - length) or 0
  local room = math.min(room_in_lane, math.max(0, partition_limit - total))
  local accepted = math.min(sent, room)
  if accepted > 0 then
    users[#users + 1] = user
    grows[#grows + 1] = { at + 2, at + 1 + accepted }
    total = total + accepted
  end
  answers[#answers + 1] = accepted
  answers[#answers + 1] = accepted == sent and '' or not is_list and 'type'
    or room == room_in_lane and 'lane' or 'partition'
  at = at + 2 + sent
end

-- One call for many lanes costs the server less than one for each.
for first = 1, #users, 2000 do
  local some = { unpack(users, first, math.min(first + 1999, #users)) }
  local unclaimed = {}
  for i, deadline in ipairs(redis.call('ZMSCORE', tag .. 'claimed', unpack(some))) do
    if not deadline then
      unclaimed[#unclaimed + 1] = now
      unclaimed[#unclaimed + 1] = some[i]
    end
  end
  if #unclaimed > 0 then redis.call('ZADD', tag .. 'ready', 'NX', unpack(unclaimed)) end
end
if total > before then redis.call('INCRBY', tag .. 'count', total - before) end

for i, user in ipairs(users) do
  local first, last = grows[i][1], grows[i][2]
  while first <= last do -- Lua's stack takes some 8,000 values in one call
    local upto = math.min(first + 999, last)
    local entries = {}
    for i = first, upto do entries[#entries + 1] = stamp .. ARGV[i] end
    redis.call('RPUSH', tag .. 'lane:' .. user, unpack(entries))
    first = upto + 1
  end
end
local wake = 0 -- if a wake-up is reserved already, skip the three calls of reserve_wake
if not woken then wake = reserve_wake(tag, now, tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])) end
return { wake, answers, stamp }
