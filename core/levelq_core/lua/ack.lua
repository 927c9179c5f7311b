#!lua flags=allow-oom
-- Remove what was decided from the lanes of one claim, and release them.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, token, then per lane: user, delay ms (0: due now), identities (32 bytes each)
-- Returns  per lane how many entries were removed, or -1 if the claim is no longer ours
--
-- Keeps:   an acknowledgement removes from the head exactly the entries that were decided, each by its
--          identity (id and digest; for rubbish the first 32 digits of its sha1), never by count: if Redis
--          was rolled back under us, other entries may be there. A stale token changes nothing.

local tag, token = ARGV[1], ARGV[2]
local ready, claimed, tokens = tag .. 'ready', tag .. 'claimed', tag .. 'tokens'
local now = clock()
local SIZE, FROM = 32, 18 -- codec.IDENTITY_BYTES; codec.IDENTITY_AT, counted from 1
local removed = {}

local function matching(entries, identities)
  for i, entry in ipairs(entries) do
    local wanted = string.sub(identities, (i - 1) * SIZE + 1, i * SIZE)
    if string.sub(entry, FROM, FROM + SIZE - 1) ~= wanted and string.sub(redis.sha1hex(entry), 1, SIZE) ~= wanted then
      return i - 1
    end
  end
  return #entries
end

for at = 3, #ARGV, 3 do
  local user, delay, identities = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  if redis.call('HGET', tokens, user) ~= token then
    removed[#removed + 1] = -1
  else
    local lane, count = tag .. 'lane:' .. user, 0
    if #identities > 0 then
      count = matching(redis.call('LRANGE', lane, 0, #identities / SIZE - 1), identities)
    end
    if count > 0 then
      redis.call('LTRIM', lane, count, -1)
      redis.call('DECRBY', tag .. 'count', count)
    end
    if redis.call('LLEN', lane) > 0 then redis.call('ZADD', ready, now + delay, user) end
    redis.call('HDEL', tokens, user)
    redis.call('ZREM', claimed, user)
    removed[#removed + 1] = count
  end
end
return removed
