-- Functions of all scripts: the loader puts this file in front of each.
-- Times are the server's, in milliseconds. `tag` is "<namespace>:{SPECIALIZATION:generation:shard}:", the prefix of
-- every key of the partition, so one call touches one Cluster slot.

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function waiting(tag)
  return tonumber(redis.call('GET', tag .. 'count') or '0') or 0 -- if it is not a number, the next sweep corrects it
end

-- The reply to a command, or `otherwise` if its key holds another type.
local function unless_wrong(otherwise, command, ...)
  local ok, reply = pcall(redis.call, command, ...)
  if not ok or type(reply) == 'table' and reply.err then return otherwise end
  return reply
end

-- One command with many values, in even steps for pairs: Lua's stack takes some 8,000 values in one call.
local function in_steps(command, key, values)
  for first = 1, #values, 2000 do
    redis.call(command, key, unpack(values, first, math.min(first + 1999, #values)))
  end
end

-- Put expired claims back into ready, at their deadline, so that they are claimed first; also claims that end later
-- than a new one would: the server's clock was set back. At most 1,000 of each kind in one call.
local function return_expired(tag, now, claim_ms)
  local claimed, returned = tag .. 'claimed', 0
  for _, range in ipairs({ { '-inf', now }, { '(' .. now + claim_ms, '+inf' } }) do
    local lanes = redis.call('ZRANGEBYSCORE', claimed, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, 1000)
    for i = 1, #lanes, 2 do
      local user, deadline = lanes[i], tonumber(lanes[i + 1])
      redis.call('ZADD', tag .. 'ready', math.min(deadline, now), user)
      redis.call('ZREM', claimed, user)
      redis.call('HDEL', tag .. 'tokens', user)
      returned = returned + 1
    end
  end
  return returned
end

-- The score in ready of a paused user's lane: later than any time. The sweep makes it due when the pause is over.
local PAUSED = 1e16

-- The pause of the whole partition ("*") or of a user: "since until actor|reason"; nil if it is over or unreadable.
local function pause_of(tag, now, who)
  local pause = unless_wrong(false, 'HGET', tag .. 'paused', who)
  local ends = pause and tonumber(string.match(pause, '^%d+ (%d+) [^|]*|'))
  return ends and (ends == 0 or ends > now) and pause or nil
end

-- A pause in words.
local function paused_by(pause)
  local ends, actor, reason = string.match(pause, '^%d+ (%d+) ([^|]*)|(.*)$')
  return 'paused by ' .. actor .. (reason == '' and '' or ': ' .. reason) .. (ends == '0' and ', until resumed' or '')
end

-- Move the lane of a paused user behind all times; the note of who paused it replaces any other.
local function park_paused(tag, user, pause)
  redis.call('ZADD', tag .. 'ready', PAUSED, user)
  redis.call('HSET', tag .. 'parked', user, string.match(pause, '^%d+') .. ' 0 ' .. paused_by(pause))
end

-- Whether the caller should enqueue a wake-up: a lane is due, the live drains cannot take all due lanes in one batch
-- each, the partition is not paused, and no other caller has reserved a wake-up (a reservation expires). If "drains"
-- holds another type, no drain counts: push.lua has appended already, so no error may be raised here.
local function reserve_wake(tag, now, wake_ms, batch_commands, batch_lanes)
  local due = redis.call('ZCOUNT', tag .. 'ready', '-inf', now)
  if due == 0 then return 0 end
  local drains = unless_wrong(0, 'ZCOUNT', tag .. 'drains', '(' .. now, '+inf')
  if drains > 0 and due <= drains * batch_lanes and waiting(tag) <= drains * batch_commands then return 0 end
  if pause_of(tag, now, '*') then return 0 end
  if redis.call('SET', tag .. 'wake', '1', 'NX', 'PX', wake_ms) then return 1 end
  return 0
end

-- Note why a lane is parked: "since attempts reason". `same_head`: its first command did not change, so the time of the
-- first attempt is kept.
local function note_parked(tag, now, user, reason, same_head)
  local parked = tag .. 'parked'
  local since, attempts = nil, nil
  if same_head then since, attempts = string.match(redis.call('HGET', parked, user) or '', '^(%d+) (%d+) ') end
  local note = string.format('%.0f %.0f ', tonumber(since or now), tonumber(attempts or 0) + 1) .. reason
  redis.call('HSET', parked, user, note)
end

-- The number of entries in the lanes of ready and claimed. A key that is no list counts as empty.
local function standing(tag)
  local ready, claimed = tag .. 'ready', tag .. 'claimed'
  local sum = 0
  for _, set in ipairs({ ready, claimed }) do
    local at, users = 0, nil
    repeat
      users = redis.call('ZRANGE', set, at, at + 999)
      for _, user in ipairs(users) do
        local length = unless_wrong(0, 'LLEN', tag .. 'lane:' .. user)
        local twice = set == claimed and redis.call('ZSCORE', ready, user)
        if not twice then sum = sum + length end
      end
      at = at + 1000
    until #users < 1000
  end
  return sum
end
