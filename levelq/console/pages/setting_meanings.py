"""What each setting means, in a sentence: docs/reference/settings.md says more."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "Servers and files": (
        "namespace", "redis_url", "rq_url", "database_url", "listen_url", "notify", "prepared_statements", "catalog",
    ),
    "Times": ("claim_seconds", "sweep_seconds", "slice_seconds", "batch_seconds", "redis_seconds", "reply_seconds"),
    "Durability": ("durability", "durable_seconds", "appendfsync"),
    "Drift": ("drift_seconds", "drift_policy"),
    "Sizes": (
        "batch_commands", "batch_lanes", "batch_bytes", "lane_commands", "lane_limit", "partition_limit",
        "payload_limit", "processes", "shards",
    ),
    "Metrics and logs": ("metrics_port", "metrics_host", "log_format", "log_level"),
}  # fmt: skip

MEANINGS = {
    "namespace": "prefix of every Redis key and RQ queue",
    "redis_url": "the Redis of the lanes",
    "rq_url": "the Redis of RQ's own keys: wake-ups, registrations of workers",
    "database_url": "PostgreSQL, which workers need",
    "listen_url": "the server on which workers LISTEN, where the database URL leads to a pooler",
    "notify": "whether an outbox issues NOTIFY and workers LISTEN",
    "prepared_statements": "whether levelq's own connections prepare statements",
    "catalog": "the specializations, and the XP that each level takes",
    "claim_seconds": "how long a drain may hold a lane; all limits of a transaction follow from it",
    "sweep_seconds": "time between two sweeps of each worker",
    "slice_seconds": "how long one drain works before it hands over",
    "batch_seconds": "how long one batch's transaction should take at most",
    "redis_seconds": "limit of each call on Redis",
    "reply_seconds": "how long an outcome that was asked for stays in Redis",
    "durability": "how safe a command is when a send returns: memory, fsync or replicated",
    "durable_seconds": "how long a send waits for the disk",
    "appendfsync": "says that Redis has appendfsync always, where a producer may not read that",
    "drift_seconds": "from the begin of one audit of the levels to the begin of the next; 0: no audits",
    "drift_policy": "what an audit does with pairs out of step: report, or repair with that level",
    "batch_commands": "commands in one transaction, at most",
    "batch_lanes": "lanes in one transaction, at most",
    "batch_bytes": "bytes of commands in one claim, at most",
    "lane_commands": "commands taken from one lane at a time, at most",
    "lane_limit": "commands that one lane may hold",
    "partition_limit": "commands that one partition may hold",
    "payload_limit": "bytes that one command may have",
    "processes": "processes of one `levelq worker`",
    "shards": "shards with which a specialization begins",
    "metrics_port": "the port on which a worker serves its metrics",
    "metrics_host": "the address of that port",
    "log_format": "text or json",
    "log_level": "the least that is logged",
}
UNSET = {  # what is done where a setting has no value
    "rq_url": "the same as LEVELQ_REDIS_URL",
    "listen_url": "the same as LEVELQ_DATABASE_URL",
    "catalog": "built in",
    "durable_seconds": "half of LEVELQ_REDIS_SECONDS",
}
