"""Partitions and the names of their Redis keys: the schema of all that levelq keeps in Redis.

Every name begins with the namespace (LEVELQ_NAMESPACE, here `levelq`), so that deployments which share a Redis never
see each other. Every key of a partition carries its tag in braces, so all of them share one Cluster slot:

    levelq:{PLAYER:1:0}:ready        zset   user -> earliest time (ms) its lane may be claimed
    levelq:{PLAYER:1:0}:claimed      zset   user -> deadline (ms) of the claim on its lane
    levelq:{PLAYER:1:0}:tokens       hash   user -> token of that claim
    levelq:{PLAYER:1:0}:parked       hash   user -> since when (ms), after how many attempts, and why its lane is parked
    levelq:{PLAYER:1:0}:drains       zset   drain -> deadline (ms) of its registration
    levelq:{PLAYER:1:0}:wake         string a wake-up is under way (expires)
    levelq:{PLAYER:1:0}:count        string commands in all lanes of the partition
    levelq:{PLAYER:1:0}:progress     string when (ms) a drain last decided or parked something, while commands wait
    levelq:{PLAYER:1:0}:recounted    string the count was compared with many lanes a moment ago (expires)
    levelq:{PLAYER:1:0}:closed       string the layout after it: the shard count changed, push answers MOVED
    levelq:{PLAYER:1:0}:filled       string the gate: what the outbox had was put back since Redis was last empty
    levelq:{PLAYER:1:0}:relay        string the lease of the partition's relay: token, run of the server (expires)
    levelq:{PLAYER:1:0}:lane:<user>  list   the lane's entries, oldest first

    levelq:partitions                zset   partition -> time (s) of its last wake-up, by the waker's clock
    levelq:shards                    hash   specialization -> how many shards it has, see layouts.py
    levelq:weather                   hash   worker -> what keeps it from working, since when (ms), until when it counts
    levelq:reply:<command id>        stream the outcome, for a sender that asked; expires
    levelq:database                  string the database that the namespace is bound to, see binding.py
    levelq:{CHECK}:write             of any type, within one script only, which tries whether writing is allowed

RQ's queues are named `levelq.PLAYER`: one for each specialization.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, Self
from zlib import crc32

from .errors import ConfigurationError

SPECIALIZATION = r"[A-Z][A-Z0-9_]{0,31}"
_MOST_BYTES = 60  # of a partition's name


class Partition(NamedTuple):
    """All lanes of one specialization, or one of its shards."""

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
            raise ConfigurationError(
                f"partition: expected SPECIALIZATION or SPECIALIZATION:generation:shard, got {name!r}"
            )
        specialization, generation, shard = match.groups()
        return cls(specialization, int(generation or 1), int(shard or 0))

    @classmethod
    def read(cls, name: bytes) -> Self | None:
        """Read a member of the registry; None if it is no partition. Any program may have put it there."""
        try:
            return cls.parse(name.decode("ascii", "replace")) if len(name) <= _MOST_BYTES else None
        except ConfigurationError:
            return None

    @classmethod
    def of(cls, specialization: str, user_id: int, shards: int, generation: int = 1) -> Self:
        """The partition that holds a user's lane. CRC-32 of the decimal id: the same in every language."""
        return cls(specialization, generation, crc32(str(user_id).encode()) % shards if shards > 1 else 0)


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one namespace. Only this class builds them, and it has no default namespace: settings give it."""

    namespace: str

    def of(self, partition: Partition, name: str) -> str:
        """One of a partition's keys, as listed above; without a name, what all of them begin with."""
        return f"{self.namespace}:{{{partition}}}:{name}"

    def lane(self, partition: Partition, user_id: int | str) -> str:
        """The list of one lane."""
        return self.of(partition, f"lane:{user_id}")

    def reply(self, command_id: bytes) -> str:
        """Where the outcome of a flagged command is kept for its sender."""
        return f"{self.namespace}:reply:{command_id.hex()}"

    def queue(self, specialization: str) -> str:
        """The RQ queue whose workers drain a specialization."""
        return f"{self.namespace}.{specialization}"

    def specialization(self, queue: str) -> str | None:
        """The specialization of an RQ queue; None if the queue is not of this namespace, or is named after none."""
        namespace, _, name = queue.partition(".")
        return name if namespace == self.namespace and re.fullmatch(SPECIALIZATION, name) else None

    @property
    def registry(self) -> str:
        """The partitions in use."""
        return f"{self.namespace}:partitions"

    @property
    def shards(self) -> str:
        """The layouts."""
        return f"{self.namespace}:shards"

    @property
    def notices(self) -> str:
        """What keeps workers from working."""
        return f"{self.namespace}:weather"

    @property
    def database(self) -> str:
        """The database that the namespace is bound to."""
        return f"{self.namespace}:database"

    @property
    def check(self) -> str:
        """What is written as a test, and gone when the script that writes it ends."""
        return f"{self.namespace}:{{CHECK}}:write"
