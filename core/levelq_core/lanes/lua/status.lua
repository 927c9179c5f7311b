#!lua flags=allow-oom,no-writes
-- Count what a partition holds. Changes nothing.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, how many heads to read
-- Returns  {waiting, ready, claimed, parked, drains, age in ms of the oldest head seen}
--
-- Keeps:   It works on a replica and on a server that cannot write.
--          Its time is bounded by ARGV[2]: only the lanes that have been due or claimed longest are searched for the
--          oldest command. It is there unless lanes are parked. Those of paused users are left out.

local tag, most = ARGV[1], tonumber(ARGV[2])
local ready, claimed = tag .. 'ready', tag .. 'claimed'
local now = clock()
local oldest = now

for _, set in ipairs({ ready, claimed }) do
  for _, user in ipairs(unless_wrong({}, 'ZRANGEBYSCORE', set, '-inf', '(' .. PAUSED, 'LIMIT', 0, most)) do
    local ok, head = pcall(redis.call, 'LINDEX', tag .. 'lane:' .. user, 0)
    local pushed = ok and head and tonumber(string.sub(head, 1, 13))
    if pushed and pushed > 0 then oldest = math.min(oldest, pushed) end
  end
end
local due = unless_wrong(0, 'ZCOUNT', ready, '-inf', now)
return {
  tonumber(unless_wrong('0', 'GET', tag .. 'count') or '0') or 0, due, unless_wrong(0, 'ZCARD', claimed),
  unless_wrong(0, 'ZCARD', ready) - due, unless_wrong(0, 'ZCOUNT', tag .. 'drains', '(' .. now, '+inf'), now - oldest,
}
