"""The keys that belong to a namespace, not to a partition: the registry of partitions, the layouts, the binding."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.settings import Settings

from .protocol import Protocol
from .script_files import Call
from .shard_layout import Layout, LayoutQuery


class NamespaceKeys:
    """The part of Lanes that reads and writes these keys. Any program may have left something else in them."""

    redis: Redis
    keys: Keys
    _settings: Settings
    _protocol: Protocol

    def _run(self, call: Call) -> Any:
        raise NotImplementedError

    def _send(self, key: str, *command: Any) -> Any:
        raise NotImplementedError

    def partitions(self) -> list[Partition]:
        """The partitions that any producer or worker ever woke, without unreadable members (see key_faults.py)."""
        try:
            names: Any = self.redis.zrange(self.keys.registry, 0, -1)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            return []
        return [partition for name in names if (partition := Partition.read(name)) is not None]

    def forget(self, partition: Partition) -> None:
        """Strike a partition that is closed and empty from those."""
        self.redis.zrem(self.keys.registry, str(partition))

    def layouts(self, specializations: Collection[str]) -> dict[str, Layout]:
        """How these specializations are sharded now; LEVELQ_SHARDS where no layout is written yet.

        Raises RedisError, and ConfigurationError for a layout that cannot be read.
        """
        return self.read_layouts(specializations).require()

    def read_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """The same, with unwritten layouts as `missing` and those that cannot be read as `unreadable`."""
        asking = LayoutQuery(specializations, self._settings)
        try:
            if asking.names:
                asking.read(self._send(asking.key, "HMGET", asking.key, *asking.names))
        except ResponseError as error:
            asking.refuse(error)
        return asking

    def ensure_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """The same before a push: what is missing is written down, so that all agree.

        Raises RedisError, also where Redis takes no writes.
        """
        asking = self.read_layouts(specializations)
        if asking.missing:
            for name in asking.missing:
                self._send(asking.key, "HSETNX", asking.key, name, str(asking.first))
            asking.read(self._send(asking.key, "HMGET", asking.key, *asking.names))
        return asking

    def change_layout(self, specialization: str, expected: Layout, new: Layout) -> bool:
        """Put one layout in the place of another, or of none; False if there is one that was not expected."""
        return bool(self._run(self._protocol.change_layout(specialization, expected, new)))

    def bound(self) -> bytes | None:
        """The database that the namespace is bound to, as binding.py encodes it; None if it is bound to none.

        Raises RedisError, and ConfigurationError if the key holds another type.
        """
        try:
            found: Any = self.redis.get(self.keys.database)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            message = "expected a string, found another type; `levelq rebuild` or `levelq namespace rebind` replaces it"
            raise ConfigurationError(f"{self.keys.database}: {message}") from None
        return None if found is None else bytes(found)

    def bind(self, database: bytes, replaced: bytes = b"") -> bytes:
        """Bind the namespace, if it is unbound or bound to `replaced`; the database that it is bound to now."""
        return bytes(self._run(self._protocol.bind(database, replaced)))
