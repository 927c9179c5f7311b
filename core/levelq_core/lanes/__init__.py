"""The lane protocol: per-user queues in Redis, every step of them one Lua script."""
