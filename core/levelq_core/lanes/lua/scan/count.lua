#!lua flags=no-writes
-- Read the count of a partition and the number of entries in its lanes, at one moment. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, how many lanes to read at most
-- Returns  {the count (-1: no number), the number of entries in the lanes of ready and claimed}, or {} if there are
--          more lanes
--
-- Keeps:   Both numbers are of one moment, so pushes and acknowledgements under way make no difference.

local tag, most = ARGV[1], tonumber(ARGV[2])
local ready, claimed = tag .. 'ready', tag .. 'claimed'
local is_ready, lanes = pcall(redis.call, 'ZCARD', ready)
local is_claimed, more = pcall(redis.call, 'ZCARD', claimed)
-- key_faults.py reports a key of another type; without it there is nothing to compare.
if not is_ready or not is_claimed or type(lanes) ~= 'number' or type(more) ~= 'number' or lanes + more > most then
  return {}
end
local sum = 0
for _, set in ipairs({ ready, claimed }) do
  local at, users = 0, nil
  repeat
    users = redis.call('ZRANGE', set, at, at + 999)
    for _, user in ipairs(users) do
      local is_list, length = pcall(redis.call, 'LLEN', tag .. 'lane:' .. user)
      local twice = set == claimed and redis.call('ZSCORE', ready, user)
      if is_list and type(length) == 'number' and not twice then sum = sum + length end
    end
    at = at + 1000
  until #users < 1000
end
local is_string, count = pcall(redis.call, 'GET', tag .. 'count')
if not is_string or type(count) == 'table' then return { -1, sum } end
return { tonumber(count or '0') or -1, sum }
