#!lua
-- Use every command that levelq's scripts use, to learn whether this server lets this user write.
--
-- KEYS[1]  <namespace>:{CHECK}:write
-- Returns  1, or the server's refusal
--
-- Keeps:   the key is gone when this returns. Without flags, it is refused for whatever a push is refused for.

local key = KEYS[1]
redis.call('DEL', key)
redis.call('SET', key, 1, 'NX', 'PX', 60000)
redis.call('INCRBY', key, 1)
redis.call('DECRBY', key, 1)
redis.call('GET', key)
redis.call('MGET', key)
redis.call('PEXPIRE', key, 60000)
redis.call('EXISTS', key)
redis.call('DEL', key)
redis.call('RPUSH', key, 1, 2)
redis.call('LLEN', key)
redis.call('LINDEX', key, 0)
redis.call('LRANGE', key, 0, 0)
redis.call('LTRIM', key, 1, -1)
redis.call('DEL', key)
redis.call('HSET', key, 'f', 1)
redis.call('HGET', key, 'f')
redis.call('HMGET', key, 'f')
redis.call('HDEL', key, 'f')
redis.call('ZADD', key, 1, 'm')
redis.call('ZSCORE', key, 'm')
redis.call('ZMSCORE', key, 'm')
redis.call('ZCARD', key)
redis.call('ZCOUNT', key, 0, 1)
redis.call('ZRANGE', key, 0, 0)
redis.call('ZRANGEBYSCORE', key, 0, 1)
redis.call('ZREMRANGEBYSCORE', key, 2, 3)
redis.call('ZREMRANGEBYRANK', key, 5, 6)
redis.call('ZREM', key, 'm')
redis.call('TIME')
return 1
