#!lua flags=allow-oom
-- Take due lanes for one drain, or retire the drain if nothing is due or the partition is paused.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, drain, claim ms, token, wake ms, batch commands, batch lanes, batch bytes,
--          lane commands (limit for one lane), payload limit, restored only (1: take nothing until what Redis lost
--          of the outbox is restored), holding (1: the drain has a batch, whose ack may make lanes due: do not retire)
-- Returns  {wake (0 or 1), retired (0 or 1), {broken users}, {per lane: user, {entries}}, the time in ms,
--          {users of these lanes that were parked for a database error}, how many expired claims were returned}
--          or {"BLOCKED"}, and nothing was done: the outbox must be restored first, see restore.lua.
--          An entry over the payload limit is returned as {length, sha1, first 4 KiB}.
--          Retired: nothing was due and not paused, and the drain is no longer registered.
--
-- Keeps:   Commands stay in their lane until ack.lua removes them. The head of a lane is read, under pcall, before the
--          lane moves to claimed: a lane key of the wrong type cannot strand the lanes behind it.
--          Finding nothing due and retiring the drain are one step, so no push falls between.
--          Nothing is taken of a paused partition, nor of a paused user: their lane is parked until the pause is over.

local tag, drain = ARGV[1], ARGV[2]
local claim_ms, token, wake_ms = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local batch_commands, batch_lanes, batch_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local lane_commands, payload_limit = tonumber(ARGV[9]), tonumber(ARGV[10])
if ARGV[11] == '1' and redis.call('EXISTS', tag .. 'filled') == 0 then return { 'BLOCKED' } end
local now = clock()

local drains = tag .. 'drains'
redis.call('ZREMRANGEBYSCORE', drains, '-inf', now)
if not redis.call('ZSCORE', drains, drain) then redis.call('DEL', tag .. 'wake') end
redis.call('ZADD', drains, now + claim_ms, drain)

local returned = return_expired(tag, now, claim_ms)

-- Few entries are read at first, and one at a time after one that is too large: an entry of many megabytes, written by
-- another program, must not hold up the server. An entry counts with its whole size, not with what is returned of it.
local function read(lane, most, bytes_left)
  local entries, bytes, step = {}, 0, 8
  while #entries < most do
    local wanted = math.min(step, most - #entries)
    local part = redis.call('LRANGE', lane, #entries, #entries + wanted - 1)
    step = 100
    for _, entry in ipairs(part) do
      bytes = bytes + #entry
      if bytes > bytes_left and #entries > 0 then return entries, bytes_left end
      if #entry > payload_limit + 13 then
        entry = { #entry, redis.sha1hex(entry), string.sub(entry, 1, 4096) }
        step = 1
      end
      entries[#entries + 1] = entry
    end
    if #part < wanted then break end
  end
  return entries, bytes
end

-- The size of a lane if the first FEW entries are all of it, and none is too large; else nil. Most lanes of a burst
-- hold one or two commands, for which the loop of `read` costs more.
local FEW = 8
local function few(entries, most, bytes_left)
  local entry = entries[1]
  if #entries == 1 and #entry <= payload_limit and #entry <= bytes_left then return #entry end
  if #entries >= math.min(FEW, most + 1) then return nil end
  local bytes = 0
  for _, entry in ipairs(entries) do
    if #entry > payload_limit + 13 then return nil end
    bytes = bytes + #entry
  end
  if bytes > bytes_left then return nil end
  return bytes
end

local ready, claimed, tokens = tag .. 'ready', tag .. 'claimed', tag .. 'tokens'

-- Mostly nothing is paused: then this costs one EXISTS.
local any_paused = redis.call('EXISTS', tag .. 'paused') == 1
local all_paused = any_paused and pause_of(tag, now, '*')
local due = all_paused and {} or redis.call('ZRANGEBYSCORE', ready, '-inf', now, 'LIMIT', 0, batch_lanes)
if any_paused then
  local others = {}
  for _, user in ipairs(due) do
    local pause = pause_of(tag, now, user)
    if pause then park_paused(tag, user, pause) else others[#others + 1] = user end
  end
  due = others
end

local lanes, broken, commands, bytes = {}, {}, 0, 0
local gone, deadlines, held, empty = 0, {}, {}, {}
for _, user in ipairs(due) do
  if commands >= batch_commands or bytes >= batch_bytes then break end
  local lane = tag .. 'lane:' .. user
  local most, bytes_left = math.min(lane_commands, batch_commands - commands), batch_bytes - bytes
  local ok, entries = pcall(redis.call, 'LRANGE', lane, 0, FEW - 1)
  local size = ok and few(entries, most, bytes_left)
  if ok and not size then ok, entries, size = pcall(read, lane, most, bytes_left) end
  if not ok then
    redis.call('ZADD', ready, now + 60000, user) -- not a list: try again in a minute; the other lanes go on
    note_parked(tag, now, user, 'its key holds another type than a list', true)
    broken[#broken + 1] = user
  elseif #entries == 0 then
    gone = gone + 1
    empty[#empty + 1] = user
  else
    commands, bytes = commands + #entries, bytes + size
    local n = #lanes
    lanes[n + 1], lanes[n + 2] = user, entries
    deadlines[n + 1], deadlines[n + 2] = now + claim_ms, user
    held[n + 1], held[n + 2] = user, token
    gone = gone + 1
  end
end
in_steps('HDEL', tag .. 'parked', empty)
in_steps('ZADD', claimed, deadlines)
in_steps('HSET', tokens, held)
-- By rank, which is cheaper than by name: these lanes were the first of ready; broken and paused ones have moved.
if gone > 0 then redis.call('ZREMRANGEBYRANK', ready, 0, gone - 1) end

-- The reason of a lane parked for a database error ends with the SQLSTATE. Mostly nothing is parked.
local parked = {}
if #held > 0 and redis.call('EXISTS', tag .. 'parked') == 1 then
  for i = 1, #held, 2 do
    local note = redis.call('HGET', tag .. 'parked', held[i])
    if note and string.find(note, '(SQLSTATE ', 1, true) then parked[#parked + 1] = held[i] end
  end
end

local retired = 0
if ARGV[12] ~= '1' and #lanes == 0 and (all_paused or redis.call('ZCOUNT', ready, '-inf', now) == 0) then
  redis.call('ZREM', drains, drain)
  retired = 1
end
return { reserve_wake(tag, now, wake_ms, batch_commands, batch_lanes), retired, broken, lanes, now, parked, returned }
