#!lua flags=allow-oom,no-writes
-- Find the lane that holds a command. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, the command's id (16 bytes), how many entries to read at most
-- Returns  {user}; {}: no lane that is ready or claimed holds it; nil: there are more entries than were read
--
-- Keeps:   Its time is bounded by ARGV[3], however many lanes there are.

local tag, id, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local step = 500

for _, set in ipairs({ 'ready', 'claimed' }) do
  for _, user in ipairs(unless_wrong({}, 'ZRANGE', tag .. set, 0, left)) do
    local skip, read = 0, step
    while read == step do
      if left <= 0 then return false end
      local entries = unless_wrong({}, 'LRANGE', tag .. 'lane:' .. user, skip, skip + step - 1)
      for _, entry in ipairs(entries) do
        if string.sub(entry, 18, 33) == id then return { user } end
      end
      read = #entries
      left, skip = left - math.max(1, read), skip + read
    end
  end
end
return left > 0 and {} or false
