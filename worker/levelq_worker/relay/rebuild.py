"""What an operator starts by hand: restore what Redis lost of the outbox, and remove what cannot be read.

Workers restore by themselves when Redis has lost everything; this is for when it lost a part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from redis import Redis
from sqlalchemy import Engine

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import scan
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations import audit, key_faults
from levelq_core.operations.identity import ensure_identity, require_bound
from levelq_core.operations.key_faults import KeyFault
from levelq_core.operations.wording import count
from levelq_core.settings import Settings

from .outbox_rows import OutboxRows
from .restore import LeaseLost, OutboxRestore, Restored

_POLL_SECONDS = 0.1  # between two attempts, while drains give their lanes back
_SPARE_SECONDS = 5.0  # beyond one claim length, for them to do so


class Rebuild:
    """Rebuilds specializations. Safe at any time, also twice: a command that is in a lane twice is applied once.

    `actor`: who acts, unless it is the account of this process. Raises RedisError, DBAPIError, WrongDatabase, and
    ConfigurationError if drains keep their lanes.
    """

    def __init__(
        self, engine: Engine, lanes: Lanes, rq: Redis, settings: Settings, *, actor: str | None = None
    ) -> None:
        self._engine = engine
        self._lanes = lanes
        self._rq = rq
        self._settings = settings
        self._actor = actor
        self._restore = OutboxRestore(lanes, OutboxRows(engine), Waker(lanes.redis, rq, settings.keys))

    def look(self, names: Sequence[str]) -> list[KeyFault]:
        """What cannot be read, which `run` would remove. Changes nothing."""
        return [*self._unreadable(), *self._unreadable_in_rq(names)]

    def run(self, names: Sequence[str], say: Callable[[str], object]) -> dict[str, int]:
        """Remove what cannot be read, then restore; the numbers, as the audit has them. `say` gets each step."""
        faults = self._unreadable()
        with self._engine.begin() as connection:
            line = audit.RunLine("rebuild", ", ".join(names), actor=self._actor)
            line.write(connection, {})
        for fault in faults:
            _remove(self._lanes.redis, fault, say)
            if fault.key == self._settings.keys.database:
                self._lanes.bind(ensure_identity(self._engine).encode())
        for fault in self._unreadable_in_rq(names):
            _remove(self._rq, fault, say)  # sweeps replace the wake-ups
        found = scan.grouped(scan.lanes(self._lanes.redis, self._settings.keys))
        if recovered := sum(self._lanes.recover(partition, users) for partition, users in found):
            say(f"{count(recovered, 'lane')} ready again: their set was lost")
        detail = {"removed_keys": len(faults), "lanes_ready_again": recovered, "commands_restored": 0}
        for partition in partitions(self._lanes, names):
            if self._restore.is_blocked(partition):
                result = "waits until the shards before it are empty: nothing is lost that it could hold"
            else:
                restored = self._restored(partition)
                detail["commands_restored"] += restored.commands
                result = f"{count(restored.commands, 'command')} put back into {count(restored.lanes, 'lane')}"
            say(f"{partition!s:<24}{result}")
        with self._engine.begin() as connection:
            line.write(connection, detail)
        return detail

    def _restored(self, partition: Partition) -> Restored:
        """Block claims, wait for those under way to end, restore, unblock. Raises ConfigurationError if it cannot."""
        by = time.monotonic() + self._settings.claim_seconds + _SPARE_SECONDS
        lease = self._lanes.lease(partition, "seize")
        try:
            while time.monotonic() < by:
                lease = self._lanes.lease(partition, "take", lease.value)
                if lease.newly_acquired or not lease.is_holder:
                    break
                restored = self._restore.restore(partition, lease, report=False)
                if restored is not None:
                    return restored
                time.sleep(_POLL_SECONDS)
        except LeaseLost:
            pass
        finally:
            self._lanes.lease(partition, "release", lease.value)
        raise ConfigurationError(
            f"{partition}: Redis or its lanes changed hands meanwhile; run `levelq rebuild` again",
            setting="partition",
            value=str(partition),
        )

    def _unreadable(self) -> list[KeyFault]:
        """Of levelq's own keys. Raises WrongDatabase if the namespace is bound to another database."""
        faults = key_faults.find(self._lanes, scan.partitions(self._lanes.redis, self._settings))
        if all(fault.key != self._settings.keys.database for fault in faults):
            with self._engine.connect() as connection:
                require_bound(connection, self._lanes)
        return faults

    def _unreadable_in_rq(self, names: Sequence[str]) -> list[KeyFault]:
        return key_faults.find_in_rq(self._rq, [self._settings.keys.queue(name) for name in names])


def _remove(redis: Redis, fault: KeyFault, say: Callable[[str], object]) -> None:
    key_faults.remove(redis, fault)
    say(f"removed  {fault.key}: {fault.what}")
