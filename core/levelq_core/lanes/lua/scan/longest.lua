#!lua flags=allow-oom,no-writes
-- Find the longest lanes of a partition, and those whose first entry is oldest. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, how many lanes to look at in each of ready and claimed, how many to return
-- Returns  {the longest: user, entries, age in ms of the first one, ...}, {the same of the oldest}
--
-- Keeps:   Its time is bounded by ARGV[2]: it looks at the lanes that have been due or claimed longest.

local tag, looked_at, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, lanes = clock(), {}
for _, set in ipairs({ 'ready', 'claimed' }) do
  for _, user in ipairs(unless_wrong({}, 'ZRANGE', tag .. set, 0, looked_at - 1)) do
    local lane = tag .. 'lane:' .. user
    local length = unless_wrong(0, 'LLEN', lane)
    if length > 0 then
      local pushed = tonumber(string.sub(redis.call('LINDEX', lane, 0), 1, 13))
      lanes[#lanes + 1] = { user, length, pushed and math.max(0, now - pushed) or 0 }
    end
  end
end

local function first(field)
  table.sort(lanes, function(a, b) return a[field] > b[field] end)
  local flat = {}
  for i = 1, math.min(most, #lanes) do
    for _, value in ipairs(lanes[i]) do flat[#flat + 1] = value end
  end
  return flat
end
return { first(2), first(3) }
