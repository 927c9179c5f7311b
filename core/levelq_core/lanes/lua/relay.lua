#!lua
-- Append outbox commands to their lanes, for the one relay of the partition.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, lease, idle only (0 or 1), lane limit, partition limit, wake ms, batch commands, batch lanes,
--          then per lane: user, number of entries, the entries
-- Returns  {wake (0 or 1), {per lane: accepted, and a reason if fewer than sent: "lane", "partition", "busy" or
--          "type", if the lane's key holds something else}}
--          or {"LOST"}, and nothing was done: the lease is not ours, the server was restarted, the partition
--          is not restored, or it is closed.
--
-- Keeps:   whatever Redis lost, nothing is appended before its loss was noticed: the lease and the key
--          `filled` are in Redis, too. "Idle only" appends only to lanes that are empty and unclaimed, so that what is
--          pushed again never stands behind what came after it. And all that push.lua keeps.

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
  local is_list, length = pcall(redis.call, 'LLEN', lane)
  if not is_list then return 0, 'type' end
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
