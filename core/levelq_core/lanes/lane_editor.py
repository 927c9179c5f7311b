"""What only an operator's commands do to lanes: read entries, remove decided ones, pause and resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.redis_client.topology import server_of

from .client import Lanes
from .pauses import MOST_PAUSES, Pause, read_pause, who
from .protocol import Oversized, Part, Protocol, Withdrawal


class LaneEditor(Lanes):
    """The lanes, with more calls. Raises redis-py's errors."""

    def peek(self, partition: Partition, lanes: Sequence[Part]) -> list[tuple[int, list[bytes | Oversized]]]:
        """Per lane its length (-1: its key is no list) and some of its entries, oldest first."""
        return Protocol.peeked(self._run(self._protocol.peek(partition, lanes)))

    def withdraw(self, partition: Partition, lanes: Sequence[Withdrawal]) -> list[int]:
        """Remove decided entries by identity; returns how many from each lane. The others keep their order."""
        return list(self._run(self._protocol.withdraw(partition, uuid4().hex, lanes)))

    def pause(
        self, partition: Partition, user_id: int | None, for_ms: int, actor: str, reason: str
    ) -> tuple[Pause | None, Pause]:
        """Pause a partition, or one user's lane in it, for `for_ms` or (0) until resumed; the pause before, and now.

        Raises ConfigurationError if MOST_PAUSES users are paused already.
        """
        reply = self._run(self._protocol.pause(partition, who(user_id), for_ms, f"{actor.replace('|', '/')}|{reason}"))
        if reply[0] == b"FULL":
            message = f"{partition}: {MOST_PAUSES:,} users are paused, and no more can be"
            raise ConfigurationError(message, setting="paused", value=str(partition))
        before, now = map(read_pause, reply)
        assert now is not None
        return before, now

    def resume(self, partition: Partition, user_id: int | None) -> Pause | None:
        """Remove a pause; returns it, None if there was none. The next sweep makes a parked lane due."""
        key = self.keys.of(partition, "paused")
        pipeline = server_of(self.redis, key).pipeline()
        pipeline.hget(key, who(user_id))
        pipeline.hdel(key, who(user_id))
        raw, _ = pipeline.execute()
        return None if raw is None else read_pause(raw)

    def claims(self, partition: Partition, user_id: int | None) -> int:
        """How many lanes of a partition drains have claimed; or whether they have one user's."""
        key = self.keys.of(partition, "claimed")
        server = server_of(self.redis, key)
        found: Any = server.zcard(key) if user_id is None else server.zscore(key, str(user_id)) is not None
        return int(found)
