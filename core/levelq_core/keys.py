"""Partitions and the names of their keys: everything that levelq keeps in Redis.

Every name begins with the namespace (LEVELQ_NAMESPACE, here `levelq`), so that deployments can share a Redis. Every
key of a partition carries its tag in braces, so all of them share one Cluster slot:

    levelq:{PLAYER:1:0}:ready        zset   user -> earliest time (ms) its lane may be claimed
    levelq:{PLAYER:1:0}:claimed      zset   user -> deadline (ms) of the claim on its lane
    levelq:{PLAYER:1:0}:tokens       hash   user -> token of that claim
    levelq:{PLAYER:1:0}:parked       hash   user -> since when (ms), after how many attempts and why its lane is parked
    levelq:{PLAYER:1:0}:paused       hash   `*` or user -> since and until when (ms), by whom and why it is paused
    levelq:{PLAYER:1:0}:drains       zset   drain -> deadline (ms) of its registration
    levelq:{PLAYER:1:0}:wake         string a wake-up is reserved (expires)
    levelq:{PLAYER:1:0}:count        string commands in all lanes of the partition
    levelq:{PLAYER:1:0}:progress     string when (ms) a drain last decided or parked commands, while others wait
    levelq:{PLAYER:1:0}:recounted    string the count of many lanes was checked lately (expires)
    levelq:{PLAYER:1:0}:closed       string the next layout: the shard count changed, and pushes are answered MOVED
    levelq:{PLAYER:1:0}:filled       string the outbox was restored since Redis was last empty
    levelq:{PLAYER:1:0}:relay        string the lease of the partition's relay: token and run id of the server (expires)
    levelq:{PLAYER:1:0}:lane:<user>  list   the lane's entries, oldest first

    levelq:partitions                zset   partition -> time (s) of its last wake-up, by the waker's clock
    levelq:shards                    hash   specialization -> how many shards it has, see shard_layout.py
    levelq:weather                   hash   worker -> its alert: since when and until when (ms), and why it cannot work
    levelq:workers                   hash   worker -> its last report, see worker_reports.py (expires)
    levelq:reply:<command id>        stream the outcome, for a sender that wants a reply (expires)
    levelq:database                  string the database that the namespace is bound to, see namespace_binding.py
    levelq:drift                     hash   what the audits of the two tables found, see drift_report.py
    levelq:auditor                   string the lease of the one worker that audits (expires)
    levelq:trends                    hash   slot of time -> what all workers did in it, see trend_slots.py (expires)
    levelq:{CHECK}:write             string exists only while a script tries whether it may write

RQ has one queue for each specialization, named `levelq.PLAYER`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, Self
from zlib import crc32

from .errors import ConfigurationError

SPECIALIZATION = r"[A-Z][A-Z0-9_]{0,31}"
_MOST_BYTES = 60  # of the name of a partition


class Partition(NamedTuple):
    """One shard of a specialization."""

    specialization: str
    generation: int = 1
    shard: int = 0

    def __str__(self) -> str:
        return f"{self.specialization}:{self.generation}:{self.shard}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `PLAYER:1:0`, or `PLAYER` for its first shard. Raises ConfigurationError."""
        match = re.fullmatch(rf"({SPECIALIZATION})(?::(\d{{1,9}}):(\d{{1,9}}))?", name)
        if match is None:
            expected = "SPECIALIZATION or SPECIALIZATION:generation:shard"
            message = f"partition: expected {expected}, got {name!r}"
            raise ConfigurationError(message, setting="partition", value=name)
        specialization, generation, shard = match.groups()
        return cls(specialization, int(generation or 1), int(shard or 0))

    @classmethod
    def read(cls, name: bytes) -> Self | None:
        """Read a member of the registry; None if it is no partition, which any program may have written."""
        try:
            return cls.parse(name.decode("ascii", "replace")) if len(name) <= _MOST_BYTES else None
        except ConfigurationError:
            return None

    @classmethod
    def of(cls, specialization: str, user_id: int, shards: int, generation: int = 1) -> Self:
        """The partition of a user's lane, by CRC-32 of the decimal id, which every language computes alike."""
        shard = crc32(str(user_id).encode()) % shards if shards > 1 else 0
        return tuple.__new__(cls, (specialization, generation, shard))  # as the constructor, and faster


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of the keys of one namespace. They are built here and nowhere else."""

    namespace: str

    def of(self, partition: Partition, name: str) -> str:
        """A key of a partition, as listed above; with an empty name, the prefix of all of them."""
        return f"{self.namespace}:{{{partition}}}:{name}"

    def lane(self, partition: Partition, user_id: int | str) -> str:
        """The key of one lane."""
        return self.of(partition, f"lane:{user_id}")

    def reply(self, command_id: bytes) -> str:
        """The stream that keeps the outcome of a flagged command for its sender."""
        return f"{self.namespace}:reply:{command_id.hex()}"

    def queue(self, specialization: str) -> str:
        """The RQ queue of a specialization."""
        return f"{self.namespace}.{specialization}"

    def specialization(self, queue: str) -> str | None:
        """The specialization of an RQ queue; None if it is not a queue of this namespace."""
        namespace, _, name = queue.partition(".")
        return name if namespace == self.namespace and re.fullmatch(SPECIALIZATION, name) else None

    @property
    def registry(self) -> str:
        """The registry of partitions."""
        return f"{self.namespace}:partitions"

    @property
    def shards(self) -> str:
        """The layouts of the specializations."""
        return f"{self.namespace}:shards"

    @property
    def notices(self) -> str:
        """The alerts of workers (WorkerAlerts). The key keeps its first name."""
        return f"{self.namespace}:weather"

    @property
    def workers(self) -> str:
        """The reports of workers (WorkerReports)."""
        return f"{self.namespace}:workers"

    @property
    def database(self) -> str:
        """The database that the namespace is bound to."""
        return f"{self.namespace}:database"

    @property
    def drift(self) -> str:
        """What the audits of the two tables found: `report` of the last one, `run` of the one under way."""
        return f"{self.namespace}:drift"

    @property
    def auditor(self) -> str:
        """The lease of the worker that audits."""
        return f"{self.namespace}:auditor"

    @property
    def trends(self) -> str:
        """What all workers did in the last hour and day."""
        return f"{self.namespace}:trends"

    @property
    def check(self) -> str:
        """The key of a trial write, which is gone when its script ends."""
        return f"{self.namespace}:{{CHECK}}:write"
