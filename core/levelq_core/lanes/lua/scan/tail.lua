#!lua flags=no-writes
-- Read entries of lanes, a step at a time, from the newest to the oldest. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, step, skip (how many of the newest entries were read before), then the users
-- Returns  per user the first 4 KiB of `step` entries; fewer than `step`: the lane ends there
--
-- Keeps:   No entry that waits all the time is missed: pushes move entries away from the tail, so the next step reads
--          some again, and acknowledgements at the head move nothing.

local tag, step, skip = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local seen = {}
for i = 4, #ARGV do
  local entries = unless_wrong({}, 'LRANGE', tag .. 'lane:' .. ARGV[i], -skip - step, -skip - 1)
  for n, entry in ipairs(entries) do
    if #entry > 4096 then entries[n] = string.sub(entry, 1, 4096) end
  end
  seen[#seen + 1] = entries
end
return seen
