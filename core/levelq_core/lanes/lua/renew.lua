#!lua flags=allow-oom
-- Extend the claims that a drain still holds, and its registration.
--
-- KEYS[1]  tag .. "ready"
-- ARGV     tag, drain, token, claim ms, then the users
-- Returns  how many claims the drain still holds
--
-- Keeps:   Only the holder of the token extends a claim.

local tag, token = ARGV[1], ARGV[3]
local deadline = clock() + tonumber(ARGV[4])
local renewed = 0
redis.call('ZADD', tag .. 'drains', deadline, ARGV[2])
for i = 5, #ARGV do
  if redis.call('HGET', tag .. 'tokens', ARGV[i]) == token then
    redis.call('ZADD', tag .. 'claimed', 'XX', deadline, ARGV[i])
    renewed = renewed + 1
  end
end
return renewed
