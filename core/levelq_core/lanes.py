"""The lanes in Redis: every step of the protocol is one script call, made here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from .partitions import REGISTRY, Partition
from .scripts import Call, Claim, Protocol, PushAnswer, Status, load
from .settings import Settings


def connect(url: str, seconds: float) -> Redis:
    """A client that waits `seconds` at most and never repeats a call by itself.

    redis-py repeats up to ten times by default: where only the reply was lost, one push became eleven.
    """
    return Redis.from_url(
        url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0), retry_on_error=[]
    )


def connect_async(url: str, seconds: float) -> AsyncRedis:
    """The same for asyncio."""
    retry = AsyncRetry(NoBackoff(), 0)
    return AsyncRedis.from_url(
        url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry, retry_on_error=[]
    )


class Lanes:
    """The protocol over one Redis connection pool. Raises redis-py's errors; a call is never repeated."""

    def __init__(self, redis: Redis, settings: Settings, *, shebang: bool = True) -> None:
        self.redis = redis
        self._protocol = Protocol(settings)
        self._shebang = shebang

    def _run(self, call: Call) -> Any:
        script = load(call.name, shebang=self._shebang)
        try:
            return self.redis.evalsha(script.sha, 1, call.key, *call.args)
        except NoScriptError:  # nothing ran; after a restart the server knows no scripts
            return self.redis.eval(script.text, 1, call.key, *call.args)

    def reach(self) -> None:
        """Make sure of a connection. Raises RedisError while it is still certain that nothing was sent."""
        pool: Any = self.redis.connection_pool
        pool.release(pool.get_connection())

    def push(
        self, batches: Sequence[tuple[Partition, Sequence[tuple[int, Sequence[bytes]]]]]
    ) -> list[PushAnswer | RedisError]:
        """Append to many lanes of several partitions in one round trip; one answer or refusal per partition."""
        calls = [self._protocol.push(partition, lanes) for partition, lanes in batches]
        pipeline = self.redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(load(call.name, shebang=self._shebang).sha, 1, call.key, *call.args)
        replies = pipeline.execute(raise_on_error=False)
        for i, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                replies[i] = self._run(calls[i])
        return [self._protocol.pushed(reply) for reply in replies]

    def claim(self, partition: Partition, drain: str, token: str, commands: int) -> Claim:
        """Register the drain and take due lanes for it, `commands` at most; or retire it."""
        return self._protocol.claimed(self._run(self._protocol.claim(partition, drain, token, commands)))

    def ack(self, partition: Partition, token: str, lanes: Sequence[tuple[bytes, int, bytes]]) -> list[int]:
        """Remove decided entries and release the lanes; see Protocol.ack. -1: the claim was no longer ours."""
        return list(self._run(self._protocol.ack(partition, token, lanes)))

    def renew(self, partition: Partition, drain: str, token: str, users: Sequence[bytes]) -> int:
        """Extend the claims; returns how many are still ours."""
        return int(self._run(self._protocol.renew(partition, drain, token, users)))

    def yield_(self, partition: Partition, drain: str) -> bool:
        """End a drain that has work left; True if its successor must be woken by the caller."""
        return bool(self._run(self._protocol.yield_(partition, drain)))

    def sweep(self, partition: Partition) -> tuple[bool, int]:
        """(a drain must be woken by the caller, how many expired claims were returned)."""
        wake, returned = self._run(self._protocol.sweep(partition))
        return bool(wake), int(returned)

    def status(self, partition: Partition) -> Status:
        """Count what the partition holds."""
        *counts, age_ms = self._run(self._protocol.status(partition))
        return Status._make((*counts, age_ms / 1000))

    def partitions(self) -> list[Partition]:
        """The partitions that any producer or worker ever woke."""
        names: Any = self.redis.zrange(REGISTRY, 0, -1)
        return [Partition.parse(name.decode()) for name in names]


class AsyncLanes:
    """What an asyncio producer needs of Lanes."""

    def __init__(self, redis: AsyncRedis, settings: Settings, *, shebang: bool = True) -> None:
        self.redis = redis
        self._protocol = Protocol(settings)
        self._shebang = shebang

    async def reach(self) -> None:
        """Make sure of a connection. Raises RedisError while it is still certain that nothing was sent."""
        pool: Any = self.redis.connection_pool
        await pool.release(await pool.get_connection())

    async def push(
        self, batches: Sequence[tuple[Partition, Sequence[tuple[int, Sequence[bytes]]]]]
    ) -> list[PushAnswer | RedisError]:
        """Append to many lanes of several partitions in one round trip; one answer or refusal per partition."""
        calls = [self._protocol.push(partition, lanes) for partition, lanes in batches]
        pipeline = self.redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(load(call.name, shebang=self._shebang).sha, 1, call.key, *call.args)
        replies = await pipeline.execute(raise_on_error=False)
        for i, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                text = load(calls[i].name, shebang=self._shebang).text
                replies[i] = await self.redis.eval(text, 1, calls[i].key, *calls[i].args)
        return [self._protocol.pushed(reply) for reply in replies]
