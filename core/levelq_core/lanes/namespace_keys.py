"""The keys of a whole namespace: the registry of partitions, changes of the layouts, the binding, the trends."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.redis_client.wrong_type import is_wrong_type, unless_wrong_type

from .script_caller import ScriptCaller
from .shard_layout import Layout
from .trend_slots import Slot


class NamespaceKeys(ScriptCaller):
    """The part of the protocol on these keys. Any program may have left something else in them."""

    def partitions(self) -> list[Partition]:
        """The partitions that were ever woken, without unreadable members (see key_faults.py)."""
        names = unless_wrong_type((), self.redis.zrange, self.keys.registry, 0, -1)
        return [partition for name in names if (partition := Partition.read(name)) is not None]

    def forget(self, partition: Partition) -> None:
        """Remove a partition that is closed and empty from the registry, and its pauses."""
        self.redis.zrem(self.keys.registry, str(partition))
        self.redis.delete(self.keys.of(partition, "paused"))

    def change_layout(self, specialization: str, expected: Layout, new: Layout) -> bool:
        """Replace one layout by another, if it is still the expected one; returns whether it was."""
        return bool(self._run(self._protocol.change_layout(specialization, expected, new)))

    def bound(self) -> bytes | None:
        """The database that the namespace is bound to, as namespace_binding.py encodes it; None if it is bound to none.

        Raises RedisError, and ConfigurationError if the key holds another type.
        """
        try:
            found: Any = self.redis.get(self.keys.database)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            message = "expected a string, found another type; `levelq rebuild` replaces it"
            raise ConfigurationError(f"{self.keys.database}: {message}", setting=self.keys.database) from None
        return None if found is None else bytes(found)

    def bind(self, database: bytes, replaced: bytes = b"") -> bytes:
        """Bind the namespace, if it is unbound or bound to `replaced`; the database that it is bound to now."""
        return bytes(self._run(self._protocol.bind(database, replaced)))

    def add_to_trends(self, did: Slot, now_ms: int) -> bool:
        """Add to the slots of this time, by the clock of Redis; whether what waits should be added, too."""
        return bool(self._run(self._protocol.add_to_trends(now_ms, did.figures())))
