#!lua flags=no-writes
-- Read the state of lanes, all at one moment. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, then the users
-- Returns  {now in ms, {per user: length of the lane (0: none, -1: not a list), its score in ready, its
--          score in claimed, its token, the first 49 bytes of its head}}
--
-- Keeps:   The whole reply is of one moment, so a lane that moves between sets is never seen in both or in neither.

local tag = ARGV[1]
local ready, claimed, tokens = tag .. 'ready', tag .. 'claimed', tag .. 'tokens'
local time = redis.call('TIME')
local seen = {}

-- The reply to a command; false if its key holds another type, as if there were none.
local function unless_wrong(command, key, user)
  local ok, answer = pcall(redis.call, command, key, user)
  if not ok or type(answer) == 'table' and answer.err then return false end
  return answer
end

for i = 2, #ARGV do
  local user, lane = ARGV[i], tag .. 'lane:' .. ARGV[i]
  local is_list, length = pcall(redis.call, 'LLEN', lane)
  if not is_list or type(length) ~= 'number' then length = -1 end
  local head = length > 0 and string.sub(redis.call('LINDEX', lane, 0), 1, 49)
  seen[#seen + 1] = {
    length, unless_wrong('ZSCORE', ready, user), unless_wrong('ZSCORE', claimed, user),
    unless_wrong('HGET', tokens, user), head,
  }
end
return { time[1] * 1000 + math.floor(time[2] / 1000), seen }
