#!lua flags=allow-oom
-- Remove decided entries from lanes, wherever they are; the others keep their order.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, mark (a value that is no entry), then per lane: user, identities (32 bytes each)
-- Returns  per lane how many entries were removed
--
-- Keeps:   Only decided entries are removed, each by its identity, as in ack.lua. A claim stays with its drain, which
--          removes by identity, too. A lane that becomes empty leaves "ready" and "parked"; one that loses its head is
--          due at once, because that head may be why it was parked.

local tag, mark = ARGV[1], ARGV[2]
local ready, parked = tag .. 'ready', tag .. 'parked'
local now = clock()
local SIZE, FROM = 32, 18 -- codec.IDENTITY_BYTES; codec.IDENTITY_AT, counted from 1
local STEP = 100

-- The indexes of the wanted entries, counted from 0, newest first.
local function find(lane, length, identities)
  local wanted, left, malformed = {}, 0, false
  for at = 1, #identities, SIZE do
    local identity = string.sub(identities, at, at + SIZE - 1)
    wanted[identity] = (wanted[identity] or 0) + 1
    left = left + 1
    malformed = malformed or string.find(identity, '^%x+$') ~= nil
  end
  local found, bound = {}, length
  while left > 0 and bound > 0 do
    local first = math.max(0, bound - STEP)
    local entries = redis.call('LRANGE', lane, first, bound - 1)
    for i = #entries, 1, -1 do
      local identity = string.sub(entries[i], FROM, FROM + SIZE - 1)
      if malformed and (wanted[identity] or 0) == 0 then identity = string.sub(redis.sha1hex(entries[i]), 1, SIZE) end
      if (wanted[identity] or 0) > 0 then
        wanted[identity] = wanted[identity] - 1
        left = left - 1
        found[#found + 1] = first + i - 1
      end
    end
    bound = first
  end
  return found
end

local removed, total = {}, 0
for at = 3, #ARGV, 2 do
  local user = ARGV[at]
  local lane = tag .. 'lane:' .. user
  local length = redis.call('LLEN', lane)
  local found = find(lane, length, ARGV[at + 1])
  if #found == length then
    redis.call('DEL', lane)
    redis.call('ZREM', ready, user)
    redis.call('HDEL', parked, user)
  elseif #found > 0 then
    for _, index in ipairs(found) do redis.call('LSET', lane, index, mark) end
    redis.call('LREM', lane, -#found, mark)
    local score = redis.call('ZSCORE', ready, user)
    if found[#found] == 0 and score then
      redis.call('ZADD', ready, math.min(now, tonumber(score)), user)
      redis.call('HDEL', parked, user)
    end
  end
  total = total + #found
  removed[#removed + 1] = #found
end
if total > 0 and redis.call('DECRBY', tag .. 'count', total) <= 0 then
  redis.call('DEL', tag .. 'count', tag .. 'progress')
end
return removed
