#!lua flags=allow-oom,no-writes
-- Find the lane that holds a command, among some lanes. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, the command's id (16 bytes), how many entries to read at most, then the users
-- Returns  {how many entries are left to read, the user}; "": none of these lanes holds it; 0 left: not all were read
--
-- Keeps:   Its time is bounded by ARGV[3] and by the number of users: an empty lane counts as one entry.

local tag, id, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local step = 500

for i = 4, #ARGV do
  local skip, read = 0, step
  while read == step and left > 0 do
    local entries = unless_wrong({}, 'LRANGE', tag .. 'lane:' .. ARGV[i], skip, skip + step - 1)
    for _, entry in ipairs(entries) do
      if string.sub(entry, 18, 33) == id then return { left, ARGV[i] } end
    end
    read = #entries
    left, skip = left - math.max(1, read), skip + read
  end
end
return { math.max(0, left), '' }
