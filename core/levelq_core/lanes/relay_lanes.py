"""The relay's part of the protocol: hold the lease, and push the outbox's entries."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from levelq_core.keys import Partition
from levelq_core.redis_client.topology import server_of

from .protocol import LaneEntries, Lease, Relayed
from .script_caller import ScriptCaller


class RelayLanes(ScriptCaller):
    """Holds a partition's lease and pushes the outbox's entries."""

    def lease(self, partition: Partition, mode: str, lease: bytes = b"") -> Lease:
        """Take, replace, seize or release the relay's lease; `lease` is the value that is held. See lease.lua."""
        return self._protocol.leased(self._run(self._protocol.lease(partition, mode, uuid4().hex, lease)))

    def relay(
        self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, idle_only: bool = False
    ) -> Relayed:
        """Append outbox entries, unless Redis lost something in the meantime; see relay.lua."""
        return self._protocol.relayed(self._run(self._protocol.relay(partition, lease, lanes, idle_only=idle_only)))

    def restore(
        self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, last: bool = False
    ) -> Relayed:
        """Restore outbox entries at the head of their lanes; `last` unblocks claims. See restore.lua."""
        return self._protocol.restored(self._run(self._protocol.restore(partition, lease, lanes, last=last)))

    def empty(self, partition: Partition, users: Sequence[int]) -> list[int]:
        """Those of these users whose lanes hold nothing at this moment."""
        pipeline = server_of(self.redis, self.keys.of(partition, "ready")).pipeline(transaction=False)
        for user_id in users:
            pipeline.exists(self.keys.lane(partition, user_id))
        return [user_id for user_id, there in zip(users, pipeline.execute(), strict=True) if not there]
