#!lua flags=allow-oom,no-writes
-- Look for one command in lanes. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, the command's id (16 bytes), how many entries to read at most, how many of the newest to leave out,
--          the user ("": every lane that is ready or claimed)
-- Returns  1 (of one user), or the user whose lane has it; 0: it is not there, -1: there are more entries than were read
--
-- Keeps:   Its time is bounded by ARGV[3]. Pushes append and drains remove from the head, so a lane that is read in
--          steps from its newest entry misses no entry that waits all the time.

local tag, id, left, newest, only = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local step = 500

local function holds(user)
  local skip = newest
  while left > 0 do
    local entries = unless_wrong({}, 'LRANGE', tag .. 'lane:' .. user, -skip - step, -skip - 1)
    for _, entry in ipairs(entries) do
      if string.sub(entry, 18, 33) == id then return true end
    end
    left, skip = left - math.max(1, #entries), skip + #entries
    if #entries < step then return false end
  end
  return false
end

if only ~= '' then
  if holds(only) then return 1 end
  return left > 0 and 0 or -1
end
local ready, claimed = tag .. 'ready', tag .. 'claimed'
-- Among more lanes than may be read the answer would be a matter of luck, and the server would wait for it.
if unless_wrong(0, 'ZCARD', ready) + unless_wrong(0, 'ZCARD', claimed) > left then return -1 end
for _, set in ipairs({ ready, claimed }) do
  local users = unless_wrong({}, 'ZRANGE', set, 0, left)
  for _, user in ipairs(users) do
    if left <= 0 then return -1 end
    if holds(user) then return user end
  end
end
return left > 0 and 0 or -1
