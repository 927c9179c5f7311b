#!lua flags=allow-oom
-- Put lanes that hold commands and are neither ready nor claimed into ready: their set was lost or removed.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, then the users
-- Returns  how many lanes are ready again
--
-- Keeps:   A lane that is ready or claimed does not change. No script leaves a lane in neither set.

local tag, now = ARGV[1], clock()
local found = 0
for i = 2, #ARGV do
  local lane = tag .. 'lane:' .. ARGV[i]
  if unless_wrong(0, 'LLEN', lane) > 0 and not redis.call('ZSCORE', tag .. 'claimed', ARGV[i]) then
    found = found + redis.call('ZADD', tag .. 'ready', 'NX', now, ARGV[i])
  end
end
return found
