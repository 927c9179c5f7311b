"""How safe a command is when its send returns: the commands that wait for it, and what their replies mean.

`memory` waits for nothing. `fsync` waits until the push is on the server's disk, `replicated` also until a replica
has it. Both need `appendfsync always`: under everysec, WAITAOF answers before the data is on disk, and a primary that
comes back without its last second takes that from its replicas, too.

The waiting commands follow the push on its connection, in one pipeline. Each waits for the last write of its own
connection: on another one, or on one that was reconnected in between, it would confirm at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError, NotDurable, QueueUnavailable
from levelq_core.redis_client.pool import RedisCommand
from levelq_core.redis_client.url_options import redacted

if TYPE_CHECKING:
    from levelq_core.settings import Durability, Settings

LEVELS: tuple[Durability, ...] = ("memory", "fsync", "replicated")
_PROBE_MS = 1  # a connection that has written nothing has nothing to wait for


class Reached(NamedTuple):
    """On how many disks and replicas a push is known to be, and why the server cannot give the level, if so."""

    disks: int
    replicas: int
    obstacle: str


class DurabilityWait:
    """One level of durability, and how long to wait for it. Raises ConfigurationError for an unknown level."""

    def __init__(self, settings: Settings, level: Durability | None) -> None:
        self.level: Durability = settings.durability if level is None else level
        if self.level not in LEVELS:
            message = f"durability: expected one of {', '.join(LEVELS)}, got {level!r}"
            raise ConfigurationError(message, setting="durability", value=level)
        self._settings = settings

    @property
    def commands(self) -> list[RedisCommand]:
        """What follows a push: the wait, then a query of how the server flushes."""
        return [] if self.level == "memory" else self._within(self._settings.durable_ms)

    @property
    def probe(self) -> list[RedisCommand]:
        """The same for a new connection: whether the server can give this level, and has a replica now."""
        return self._within(_PROBE_MS)

    def _within(self, milliseconds: int) -> list[RedisCommand]:
        replica: list[RedisCommand] = [("WAIT", 1, milliseconds)] if self.level == "replicated" else []
        return [("WAITAOF", 1, 0, milliseconds), *replica, ("CONFIG GET", "appendfsync")]

    def check(self, replies: Sequence[Any]) -> None:
        """Read the replies to the probe. Raises ConfigurationError, or QueueUnavailable if no replica is connected."""
        reached = self._read(replies)
        url = redacted(self._settings.redis_url)
        refused = f"LEVELQ_REDIS_URL {url}: nothing was queued: durability {self.level}"
        if reached.obstacle:
            message = f"{refused} is not available: {reached.obstacle}"
            raise ConfigurationError(message, setting="LEVELQ_REDIS_URL", value=url)
        if self.level == "replicated" and not reached.replicas:
            message = f"{refused}, and no replica is connected"
            raise QueueUnavailable(message, setting="LEVELQ_REDIS_URL", value=url)

    def is_met(self, replies: Sequence[Any]) -> bool:
        """Whether a push is as durable as was asked, by the replies that followed it."""
        if not replies:
            return True
        reached = self._read(replies)
        replicated = reached.replicas > 0 or self.level != "replicated"
        return reached.disks > 0 and replicated and not reached.obstacle

    def shortfall(self, replies: Sequence[Any], command_id: UUID) -> NotDurable:
        """The error of a command that is queued and less durable than was asked."""
        reached = self._read(replies)
        replicas = f" and {reached.replicas} replicas" if self.level == "replicated" else ""
        because = f" ({reached.obstacle})" if reached.obstacle else ""
        return NotDurable(
            f"command {command_id} is queued, but not as durably as asked ({self.level}): within "
            f"{self._settings.durable_ms} ms it reached {reached.disks} of 1 disk{replicas}{because}; "
            "sending it again with the same id is safe",
            command_id=command_id,
            wanted=self.level,
            numlocal=reached.disks,
            numreplicas=reached.replicas,
            milliseconds=self._settings.durable_ms,
        )

    def _read(self, replies: Sequence[Any]) -> Reached:
        waitaof, *wait, config = replies
        if isinstance(waitaof, RedisError):
            return Reached(0, 0, f"{waitaof} (it takes Redis 7.2 or later, or Valkey, as primary, with appendonly yes)")
        disks, replicas = waitaof
        for reply in wait:
            if isinstance(reply, RedisError):
                return Reached(disks, 0, str(reply))
            replicas = reply
        return Reached(disks, replicas, self._obstacle(config))

    def _obstacle(self, config: Any) -> str:
        if isinstance(config, RedisError):
            if self._settings.appendfsync == "always":
                return ""
            return f"its appendfsync cannot be read ({config}); LEVELQ_APPENDFSYNC=always says that it is always"
        policy = config.get("appendfsync")
        return "" if policy == "always" else f"it takes appendfsync always, and it is {policy}"
