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
local seen = {}
for i = 2, #ARGV do
  local user, lane = ARGV[i], tag .. 'lane:' .. ARGV[i]
  local length = unless_wrong(-1, 'LLEN', lane)
  local head = length > 0 and string.sub(redis.call('LINDEX', lane, 0), 1, 49)
  seen[#seen + 1] = {
    length, unless_wrong(false, 'ZSCORE', ready, user), unless_wrong(false, 'ZSCORE', claimed, user),
    unless_wrong(false, 'HGET', tokens, user), head,
  }
end
return { clock(), seen }
