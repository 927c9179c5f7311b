#!lua flags=allow-oom,no-writes
-- Read entries of lanes, a part at a time, from the newest to the oldest. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, payload limit, page entries, page bytes,
--          then per lane: user, skip (how many of the newest to leave out)
-- Returns  per lane: its length (-1: its key is no list), {entries, newest first}
--          An entry over the payload limit is returned as {length, sha1, first 4 KiB}.
--
-- Keeps:   Drains remove from the head and pushes append, so an entry that waits all the time is never missed.
--          A call returns at most `page entries`, and stops after the entry that exceeds `page bytes`.

local tag, payload_limit = ARGV[1], tonumber(ARGV[2])
local entries_left, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])

-- As in claim.lua: few entries at first, and one at a time after one that is too large.
local function read(lane, skip)
  local entries, step = {}, 8
  while entries_left > 0 and bytes_left > 0 do
    local wanted = math.min(step, entries_left)
    local part = redis.call('LRANGE', lane, -skip - wanted, -skip - 1)
    step = 100
    for i = #part, 1, -1 do
      if bytes_left <= 0 then break end
      local entry = part[i]
      bytes_left, entries_left, skip = bytes_left - #entry, entries_left - 1, skip + 1
      if #entry > payload_limit + 13 then
        entry = { #entry, redis.sha1hex(entry), string.sub(entry, 1, 4096) }
        step = 1
      end
      entries[#entries + 1] = entry
    end
    if #part < wanted then break end
  end
  return entries
end

local seen = {}
for at = 5, #ARGV, 2 do
  local user, skip = ARGV[at], tonumber(ARGV[at + 1])
  local lane = tag .. 'lane:' .. user
  local length = unless_wrong(-1, 'LLEN', lane)
  seen[#seen + 1] = length
  seen[#seen + 1] = length > skip and read(lane, skip) or {}
end
return seen
