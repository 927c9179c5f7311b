"""The keys of a namespace, as opposed to those of a partition: the registry, the layouts, the binding."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.wrong_type import unless_wrong_type
from levelq_core.settings import Settings

from .protocol import Protocol
from .script_files import Call
from .shard_layout import Layout, LayoutQuery


class NamespaceKeys:
    """The part of Lanes that reads and writes these keys, in which any program may have left something else."""

    redis: Redis
    keys: Keys
    _settings: Settings
    _protocol: Protocol

    def _run(self, call: Call) -> Any:
        raise NotImplementedError

    def _send(self, key: str, *command: Any) -> Any:
        raise NotImplementedError

    def partitions(self) -> list[Partition]:
        """The partitions in the registry, without unreadable members (see key_faults.py)."""
        names = unless_wrong_type((), self.redis.zrange, self.keys.registry, 0, -1)
        return [partition for name in names if (partition := Partition.read(name)) is not None]

    def forget(self, partition: Partition) -> None:
        """Remove a closed, empty partition from the registry."""
        self.redis.zrem(self.keys.registry, str(partition))

    def layouts(self, specializations: Collection[str]) -> dict[str, Layout]:
        """How these specializations are sharded; LEVELQ_SHARDS where no layout is written yet.

        Raises RedisError, and ConfigurationError for a layout that cannot be read.
        """
        return self.read_layouts(specializations).require()

    def read_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """The same, with unwritten layouts as `missing` and those that cannot be read as `unreadable`."""
        query = LayoutQuery(specializations, self._settings)
        try:
            if query.names:
                query.read(self._send(query.key, "HMGET", query.key, *query.names))
        except ResponseError as error:
            query.refuse(error)
        return query

    def ensure_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """The same before a push: missing layouts are written, so that every process uses the same.

        Raises RedisError, also if Redis takes no writes.
        """
        query = self.read_layouts(specializations)
        for name in query.missing:
            self._send(query.key, "HSETNX", query.key, name, str(query.first))
        return self.read_layouts(specializations) if query.missing else query

    def change_layout(self, specialization: str, expected: Layout, new: Layout) -> bool:
        """Replace the expected layout, or write the first one; False if there is another than expected."""
        return bool(self._run(self._protocol.change_layout(specialization, expected, new)))

    def bound(self) -> bytes | None:
        """The database that the namespace is bound to, as namespace_binding.py encodes it; None if it is not bound.

        Raises RedisError, and ConfigurationError if the key holds another type.
        """
        found = unless_wrong_type(False, self.redis.get, self.keys.database)
        if found is False:
            message = "expected a string, found another type; `levelq rebuild` or `levelq namespace rebind` replaces it"
            raise ConfigurationError(f"{self.keys.database}: {message}")
        return None if found is None else bytes(found)

    def bind(self, database: bytes, replaced: bytes = b"") -> bytes:
        """Bind the namespace, unless it is bound to another database than `replaced`; what it is bound to now."""
        return bytes(self._run(self._protocol.bind(database, replaced)))
