#!lua
-- Add what a worker did to the trends, in the slot of each series that is under way. When a slot begins, old ones go.
--
-- KEYS[1]  <namespace>:trends
-- ARGV     now in s, series (of each "length of a slot in s:how many are kept"), then name and number in turn
-- Returns  1 if the first series does not know yet what waits in this slot, so the caller should add it; else 0
--
-- Keeps:   The size: a slot has one text, and each series at most two slots more than are kept.
--          Workers' counts are summed, and of what waits or is parked the largest sample stays.
--          What another program left is replaced, a key of another type is left alone.

local key, now = KEYS[1], tonumber(ARGV[1])
if not unless_wrong(false, 'HLEN', key) then return 0 end
local sampled = { waiting = true, parked = true }
local MOST_BYTES = 8192 -- of a slot; one with every bucket of lags has 5,000
local kept, expires, began, unknown = {}, 0, false, nil

for seconds, slots in string.gmatch(ARGV[2], '(%d+):(%d+)') do
  local length = tonumber(seconds)
  kept[seconds], expires = tonumber(slots), math.max(expires, length * (slots + 1))
  local slot = seconds .. ':' .. string.format('%.0f', now - now % length)
  local text = redis.call('HGET', key, slot)
  began = began or not text
  local figures = {}
  if text and #text <= MOST_BYTES then
    for part in string.gmatch(text, '%S+') do
      local name, number = string.match(part, '^(%l+%d*)=(%d+)$')
      if name and #number <= 15 then figures[name] = tonumber(number) end
    end
  end
  for i = 3, #ARGV, 2 do
    local name, number, before = ARGV[i], tonumber(ARGV[i + 1]), figures[ARGV[i]] or 0
    figures[name] = sampled[name] and math.max(before, number) or before + number
  end
  if unknown == nil then unknown = not figures.waiting end
  local parts = {}
  for name, number in pairs(figures) do parts[#parts + 1] = name .. '=' .. string.format('%.0f', number) end
  table.sort(parts)
  redis.call('HSET', key, slot, table.concat(parts, ' '))
end

if began then
  local old = {}
  for _, slot in ipairs(redis.call('HKEYS', key)) do
    local seconds, at = string.match(slot, '^(%d+):(%d+)$')
    local age = kept[seconds] and (now - at) / seconds -- in slots; of one that another worker began just now, negative
    if not age or age < -1 or age >= kept[seconds] + 1 then old[#old + 1] = slot end
  end
  in_steps('HDEL', key, old)
end
redis.call('EXPIRE', key, expires)
return unknown and 1 or 0
