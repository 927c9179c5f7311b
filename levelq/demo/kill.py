"""The kill of a worker in the middle of the burst."""

from __future__ import annotations

import threading
import time
from typing import Any

from levelq.laboratory.environment import Environment
from levelq_core.keys import Partition

from .burst import TOP_LEVEL

_KILL_AFTER, _KILL_ANYWAY = 0.5, 0.9  # share of the commands decided: when to kill, and when at the latest
_POLL_SECONDS = 0.005
_PARTITIONS = tuple(Partition(name) for name in TOP_LEVEL)


class WorkerKill:
    """Kills a worker while it holds claims, and watches those come back. Times are Unix seconds, 0 until they come.

    It has a thread of its own: the burst may be over within a second, and a look at the servers takes a tenth of one.
    """

    def __init__(self, environment: Environment, commands: int) -> None:
        """`commands`: how many are sent before the kill."""
        self.pid = 0
        self.killed_at = 0.0
        self.returned_at = 0.0
        self.lanes_held = 0
        self.pushed = 0  # set it to how many commands the senders have pushed
        self._environment = environment
        self._keys = environment.settings.keys
        self._commands = commands

    def run(self, ended: threading.Event) -> None:
        """Wait for the moment, kill, watch the claims; stop early if the demo has ended."""
        while self._decided() < _KILL_AFTER:
            if ended.wait(_POLL_SECONDS):
                return
        victim = self._environment.workers.busiest()  # takes milliseconds, so it is found before the moment
        while not self._all_busy() and self._decided() < _KILL_ANYWAY:
            if ended.wait(_POLL_SECONDS):
                return
        left = self._claims()
        victim.kill()
        self.pid, self.killed_at = victim.pid, time.time()
        # A living worker acknowledges its claims within a batch; the dead one's last until they expire.
        while left:
            if time.time() - self.killed_at > self._environment.settings.claim_seconds / 2:
                self.lanes_held = len(left)
            if ended.wait(_POLL_SECONDS):
                return
            left &= self._claims()
        self.returned_at = time.time()

    def _decided(self) -> float:
        """The share of the commands that is decided, or a little less."""
        counts: list[Any] = self._environment.redis.mget(
            [self._keys.of(partition, "count") for partition in _PARTITIONS]
        )
        return (self.pushed - sum(int(count or 0) for count in counts)) / self._commands

    def _all_busy(self) -> bool:
        """Whether every worker holds a claim, so that any victim holds some."""
        return len({token for _, _, token in self._claims()}) >= self._environment.workers.processes

    def _claims(self) -> set[tuple[str, bytes, bytes]]:
        """Partition, lane and fencing token of every claim."""
        pipeline = self._environment.redis.pipeline(transaction=False)
        for partition in _PARTITIONS:
            pipeline.hgetall(self._keys.of(partition, "tokens"))
        replies: list[Any] = pipeline.execute()
        found = zip(_PARTITIONS, replies, strict=True)
        return {(str(partition), user, token) for partition, tokens in found for user, token in tokens.items()}
