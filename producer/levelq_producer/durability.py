"""How safe a command is when its send returns: what to ask of the server, and what the answers mean.

`memory` asks nothing. `fsync` waits until the push is on the server's disk, `replicated` also until a replica has
it. Both rest on `appendfsync always`: under everysec WAITAOF was seen to answer before the data was on disk, and
a primary that comes back without its last second takes that from its replicas, too.

The questions follow the push in one pipeline. Each wait is for the last write of its own connection, so on any
other, or on one that was silently made anew in between, it would confirm at once what was never waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError, NotDurable, QueueUnavailable
from levelq_core.redis_client.pool import RedisCommand
from levelq_core.settings import Durability, Settings, redacted

LEVELS: tuple[Durability, ...] = get_args(Durability)
_PROBE_MS = 1  # a connection that has written nothing has nothing to wait for


class Reached(NamedTuple):
    """On how many disks and replicas a push is known to be, and why the server cannot do what was asked, if so."""

    numlocal: int
    numreplicas: int
    obstacle: str


class Wait:
    """One level of durability, and how long to wait for it. Raises ConfigurationError for a level there is not."""

    def __init__(self, settings: Settings, level: Durability | None) -> None:
        self.level: Durability = settings.durability if level is None else level
        if self.level not in LEVELS:
            raise ConfigurationError(f"durability: expected one of {', '.join(LEVELS)}, got {level!r}")
        self._settings = settings

    @property
    def questions(self) -> list[RedisCommand]:
        """What to ask behind a push: wait, then tell how you flush."""
        return [] if self.level == "memory" else self._within(self._settings.durable_ms)

    @property
    def probe(self) -> list[RedisCommand]:
        """The same for a new connection: whether the server can give this level, and has a replica now."""
        return self._within(_PROBE_MS)

    def _within(self, milliseconds: int) -> list[RedisCommand]:
        replica: list[RedisCommand] = [("WAIT", 1, milliseconds)] if self.level == "replicated" else []
        return [("WAITAOF", 1, 0, milliseconds), *replica, ("CONFIG GET", "appendfsync")]

    def check(self, answers: Sequence[Any]) -> None:
        """Read the answers to the probe. Raises ConfigurationError, or QueueUnavailable if no replica is there now."""
        reached = self._read(answers)
        refused = f"LEVELQ_REDIS_URL {redacted(self._settings.redis_url)}: nothing was queued"
        if reached.obstacle:
            raise ConfigurationError(f"{refused}: durability {self.level} is not to be had: {reached.obstacle}")
        if self.level == "replicated" and not reached.numreplicas:
            raise QueueUnavailable(f"{refused}: durability replicated, and no replica is connected")

    def met(self, answers: Sequence[Any]) -> bool:
        """Whether a push is as durable as was asked, by the answers behind it."""
        if not answers:
            return True
        reached = self._read(answers)
        replicated = reached.numreplicas > 0 or self.level != "replicated"
        return reached.numlocal > 0 and replicated and not reached.obstacle

    def shortfall(self, answers: Sequence[Any], command_id: UUID) -> NotDurable:
        """What a queued command has reached instead."""
        reached = self._read(answers)
        replicas = f" and {reached.numreplicas} replicas" if self.level == "replicated" else ""
        because = f" ({reached.obstacle})" if reached.obstacle else ""
        return NotDurable(
            f"command {command_id} is queued, but not as durably as asked ({self.level}): within "
            f"{self._settings.durable_ms} ms it reached {reached.numlocal} of 1 disk{replicas}{because}; "
            "sending it again with the same id is safe",
            command_id=command_id,
            wanted=self.level,
            numlocal=reached.numlocal,
            numreplicas=reached.numreplicas,
            milliseconds=self._settings.durable_ms,
        )

    def _read(self, answers: Sequence[Any]) -> Reached:
        flushed, *replicated, flushing = answers
        if isinstance(flushed, RedisError):
            return Reached(0, 0, f"{flushed} (it takes Redis 7.2 or later, or Valkey, as primary, with appendonly yes)")
        numlocal, numreplicas = flushed
        for answer in replicated:
            if isinstance(answer, RedisError):
                return Reached(numlocal, 0, str(answer))
            numreplicas = answer
        return Reached(numlocal, numreplicas, self._obstacle(flushing))

    def _obstacle(self, flushing: Any) -> str:
        if isinstance(flushing, RedisError):
            if self._settings.appendfsync == "always":
                return ""
            return f"its appendfsync cannot be read ({flushing}); LEVELQ_APPENDFSYNC=always says that it is always"
        policy = flushing.get("appendfsync")
        return "" if policy == "always" else f"it takes appendfsync always, and it is {policy}"
