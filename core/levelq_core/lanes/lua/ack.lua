#!lua flags=allow-oom
-- Remove what was decided from the lanes of one claim, and release them.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, token, delays ("ms ms ...", one for each lane; "" if all are due now),
--          reasons (why lanes are parked: a line for each lane, empty for lanes that are not; "" if none is),
--          then per lane: user, identities (32 bytes each)
-- Returns  per lane how many entries were removed, or -1 if the claim was lost
--
-- Keeps:   An acknowledgement removes from the head exactly the decided entries, each by its identity (id and digest;
--          of a malformed entry the first 32 digits of its sha1), never by count: if Redis was rolled back, other
--          entries may be there. A stale token changes nothing.
--          If the script fails midway, the lanes stay claimed until the claims expire.
--          While commands wait, "progress" holds the time when some were last decided or parked.
--          A lane has a note in "parked" from its first acknowledgement with a reason until one that removes
--          entries without a reason, or until it is empty.

local tag, token = ARGV[1], ARGV[2]
local ready, claimed, tokens = tag .. 'ready', tag .. 'claimed', tag .. 'tokens'
local now = clock()
local SIZE, FROM = 32, 18 -- codec.IDENTITY_BYTES; codec.IDENTITY_AT, counted from 1
local removed = {}

-- How many entries, from the head, are the decided ones. Most lanes of a burst hold one command: no string is made.
local function matching(entries, identities)
  if #identities == SIZE and #entries == 1 and string.find(entries[1], identities, FROM, true) == FROM then return 1 end
  for i, entry in ipairs(entries) do
    local wanted = string.sub(identities, (i - 1) * SIZE + 1, i * SIZE)
    if string.find(entry, wanted, FROM, true) ~= FROM and string.sub(redis.sha1hex(entry), 1, SIZE) ~= wanted then
      return i - 1
    end
  end
  return #entries
end

local users = {}
for at = 5, #ARGV, 2 do users[#users + 1] = ARGV[at] end
local delays = {}
for delay in string.gmatch(ARGV[3], '%d+') do delays[#delays + 1] = tonumber(delay) end
local reasons = {}
for reason in string.gmatch(ARGV[4], '([^\n]*)\n') do reasons[#reasons + 1] = reason end
local holders = {}
for first = 1, #users, 2000 do
  for _, holder in ipairs(redis.call('HMGET', tokens, unpack(users, first, math.min(first + 1999, #users)))) do
    holders[#holders + 1] = holder
  end
end

local total, released, again, emptied, gone_on, parked_some = 0, {}, {}, {}, {}, false
for i, user in ipairs(users) do
  local identities = ARGV[2 * i + 4]
  if holders[i] ~= token then
    removed[i] = -1
  else
    local lane, sent = tag .. 'lane:' .. user, #identities / SIZE
    local entries = redis.call('LRANGE', lane, 0, sent) -- one more than was decided, to see whether there is more
    local more = #entries > sent
    if more then entries[#entries] = nil end
    local count = matching(entries, identities)
    if count < #entries then more = true end
    if more then
      if count > 0 then redis.call('LTRIM', lane, count, -1) end
      again[#again + 1] = now + (delays[i] or 0)
      again[#again + 1] = user
    elseif count > 0 then
      emptied[#emptied + 1] = lane
    end
    if more and reasons[i] and reasons[i] ~= '' then
      note_parked(tag, now, user, reasons[i], count == 0)
      parked_some = true
    elseif count > 0 or not more then
      gone_on[#gone_on + 1] = user
    end
    released[#released + 1] = user
    total = total + count
    removed[i] = count
  end
end
-- Entries that other programs wrote were never counted: a count below zero would enforce no limit.
if total > 0 and redis.call('DECRBY', tag .. 'count', total) <= 0 then
  redis.call('DEL', tag .. 'count', tag .. 'progress')
elseif total > 0 or parked_some then
  redis.call('SET', tag .. 'progress', string.format('%.0f', now))
end
-- One call for all empty lanes costs the server less than one LTRIM for each.
for first = 1, #emptied, 2000 do
  redis.call('DEL', unpack(emptied, first, math.min(first + 1999, #emptied)))
end
-- Mostly nothing is parked: then this costs one EXISTS.
local parked = tag .. 'parked'
if #gone_on > 0 and redis.call('EXISTS', parked) == 1 then in_steps('HDEL', parked, gone_on) end
in_steps('ZADD', ready, again)
in_steps('HDEL', tokens, released)
in_steps('ZREM', claimed, released)
return removed
