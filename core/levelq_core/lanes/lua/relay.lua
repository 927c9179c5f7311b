#!lua
-- Append outbox commands to their lanes, for the relay that holds the lease of the partition.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, lease, idle only (0 or 1), lane limit, partition limit, wake ms, batch commands, batch lanes,
--          then per lane: user, number of entries, the entries
-- Returns  {wake (0 or 1), {per lane: how many were accepted, and why not all: "lane" or "partition" (limits), "busy"
--          (not idle), "type" (the lane's key is no list)}}
--          or {"LOST"}, and nothing was done: the lease was lost, the server was restarted, the outbox must be
--          restored, or the partition is closed
--
-- Keeps:   If Redis loses data, nothing is appended before the loss is noticed: the lease and the mark that the outbox
--          was restored are lost, too. "Idle only" appends only to lanes that are empty and unclaimed, so commands
--          pushed again are never behind later ones. And all that push.lua keeps.

local tag, lease, idle_only = ARGV[1], ARGV[2], ARGV[3] == '1'
local lane_limit, partition_limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('GET', tag .. 'relay') ~= lease or string.sub(lease, -#server) ~= server
  or redis.call('EXISTS', tag .. 'filled') == 0 or redis.call('EXISTS', tag .. 'closed') == 1 then
  return { 'LOST' }
end

local now = clock()
local stamp = string.format('%013.0f', now)
local total = waiting(tag)
local answers = {}

local function append(user, first, sent)
  local lane = tag .. 'lane:' .. user
  local length = unless_wrong(nil, 'LLEN', lane)
  if not length then return 0, 'type' end
  local claimed = redis.call('ZSCORE', tag .. 'claimed', user)
  if idle_only and (length > 0 or claimed) then return 0, 'busy' end
  local accepted = math.max(0, math.min(sent, lane_limit - length, partition_limit - total))
  if accepted > 0 then
    local entries = {}
    for i = first, first + accepted - 1 do entries[#entries + 1] = stamp .. ARGV[i] end
    if not claimed then redis.call('ZADD', tag .. 'ready', 'NX', now, user) end
    redis.call('INCRBY', tag .. 'count', accepted)
    in_steps('RPUSH', lane, entries)
    total = total + accepted
  end
  if accepted == sent then return accepted, '' end
  return accepted, total >= partition_limit and 'partition' or 'lane'
end

local at = 9
while at <= #ARGV do
  local sent = tonumber(ARGV[at + 1])
  answers[#answers + 1], answers[#answers + 2] = append(ARGV[at], at + 2, sent)
  at = at + 2 + sent
end
return { reserve_wake(tag, now, tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])), answers }
