#!lua flags=allow-oom
-- Take, renew or give up the lease of the one relay of a partition.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, mode ("take", "replace", "seize" or "release"), token (a new one),
--          lease (the one that the caller holds, or ""), lease ms
-- Returns  {0 (held by another relay), 1 (newly acquired) or 2 (held all the time), the lease, restored (0 or 1),
--          how many lanes are claimed}
--
-- Keeps:   A lease "held all the time" was the caller's without a break, on the same run of the server: it contains
--          the run id, so data lost in an unclean restart or a failover to a replica is noticed.
--          "replace" gives the lease a new token, so a push under way is refused. "seize" takes it from any holder
--          and blocks claims until the outbox is restored, in the same step.

local tag, mode, lease = ARGV[1], ARGV[2], ARGV[4]
local holder = redis.call('GET', tag .. 'relay')
-- A lease that lasts longer than a new one, or has no end, was written by another program.
local left = redis.call('PTTL', tag .. 'relay')
if holder and (left == -1 or left > tonumber(ARGV[5])) then holder = false end
local is_holder = holder == lease
if mode == 'release' then
  if is_holder then redis.call('DEL', tag .. 'relay') end
  return { 0, '', 0, 0 }
end

local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local state = 0
if mode == 'take' and is_holder and string.sub(lease, -#server) == server then
  redis.call('PEXPIRE', tag .. 'relay', ARGV[5])
  state = 2
elseif mode == 'seize' or not holder or is_holder then
  lease = ARGV[3] .. ':' .. server
  redis.call('SET', tag .. 'relay', lease, 'PX', ARGV[5])
  if mode == 'seize' then redis.call('DEL', tag .. 'filled') end
  state = 1
end
return { state, lease, redis.call('EXISTS', tag .. 'filled'), redis.call('ZCARD', tag .. 'claimed') }
