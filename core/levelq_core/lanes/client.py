"""The lanes in Redis: every step of the protocol is one script call, made here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from redis import Redis
from redis.exceptions import MovedError, RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.failpoints import failpoint
from levelq_core.keys import Partition
from levelq_core.redis_client.cluster import REDIRECTIONS, NotConnected, as_lost, server_of
from levelq_core.redis_client.node_pools import NodePools
from levelq_core.redis_client.pool import CONNECTIONS, NodePool, RedisCommand
from levelq_core.settings import Settings

from .namespace_keys import NamespaceKeys
from .parked import Acknowledgements, Reasons
from .pending_reply import PendingReply
from .protocol import Claim, LaneEntries, Lease, Protocol, PushAnswer, PushError, Relayed, Status
from .push_batch import PushBatch
from .script_files import Call
from .shard_layout import Layout

Batches = Sequence[tuple[Partition, Sequence[LaneEntries]]]
T = TypeVar("T")
log = logging.getLogger("levelq")


class Lanes(NamespaceKeys):
    """The protocol over one Redis connection pool. Raises redis-py's errors; a call is never repeated.

    At most `connections` are used to one server at once, and `durable` to push and wait for a disk or a replica; who
    wants another waits for one.
    """

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        *,
        shebang: bool = True,
        connections: int = CONNECTIONS,
        durable: int = CONNECTIONS,
    ) -> None:
        self.redis = redis
        self._pools = NodePools(redis, connections)
        self._durable = NodePools(redis, durable)
        self._protocol = Protocol(settings)
        self._settings = settings
        self.keys = settings.keys
        self._shebang = shebang

    def _begin(self, call: Call, meaning: Callable[[Any], T]) -> PendingReply[T]:
        return PendingReply(self._pools, call, meaning, shebang=self._shebang)

    def _run(self, call: Call) -> Any:
        return self._begin(call, lambda reply: reply).result()

    def push(self, batches: Batches) -> list[PushAnswer | PushError]:
        """Append to many lanes of several partitions in one round trip to each server; see push_and_ask."""
        return self.push_and_ask(batches, ())[0]

    def push_and_ask(
        self, batches: Batches, questions: Sequence[RedisCommand]
    ) -> tuple[list[PushAnswer | PushError], list[list[Any]]]:
        """Push, and ask behind it on the same connections.

        Returns per batch the answer or error, and per server the answer or refusal to each question. Of the errors,
        NotConnected and ResponseError say that nothing of the batch was pushed; after others nobody knows.
        """
        pushing = PushBatch([self._protocol.push(partition, lanes) for partition, lanes in batches], self._shebang)
        while pushing.left:
            pools = self._durable if questions else self._pools
            for connections, places in self._by_server(pools, pushing).items():
                try:
                    with connections.connection() as connection:
                        self._push_some(connections, connection, pushing, places, questions)
                except Exception as error:  # whatever it was, something may have been sent
                    pushing.failed(places, as_lost(error))
            if pushing.moved:
                with suppress(NotConnected, ConfigurationError):
                    self._pools.moved(pushing.moved)
        return [self._protocol.pushed(reply) for reply in pushing.replies], pushing.asked

    @staticmethod
    def _by_server(pools: NodePools, pushing: PushBatch) -> dict[NodePool, list[int]]:
        if pools.only is not None:
            return {pools.only: pushing.start()}
        found: dict[NodePool, list[int]] = {}
        for place in pushing.start():
            try:
                found.setdefault(pools.at(pushing.key(place)), []).append(place)
            except (NotConnected, ConfigurationError) as error:
                pushing.failed([place], error)
        return found

    @staticmethod
    def _push_some(
        connections: NodePool,
        connection: Any,
        pushing: PushBatch,
        places: Sequence[int],
        questions: Sequence[RedisCommand],
    ) -> None:
        failpoint("push request")
        answers = connections.execute(connection, [*pushing.commands(places), *questions])
        if unknown := pushing.take(places, answers):
            answers = connections.execute(connection, [*pushing.commands(unknown, known=False), *questions])
            pushing.take(unknown, answers)
        failpoint("push reply")

    def ask(self, questions: Sequence[RedisCommand]) -> list[list[Any]]:
        """Per server the answer or refusal to each question, all asked on one connection."""
        found = []
        for connections in self._pools.all():
            with connections.connection() as connection:
                found.append(connections.execute(connection, questions))
        return found

    def _send(self, key: str, *command: Any) -> Any:
        """One command about one key, on a connection of ours. Raises NotConnected, and redis-py's errors."""
        answer: Any = None
        for _ in range(REDIRECTIONS):
            connections = self._pools.at(key)
            with connections.connection() as connection:
                (answer,) = connections.execute(connection, [command])
            if not isinstance(answer, MovedError):
                break
            self._pools.moved(answer)
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def claim(self, partition: Partition, drain: str, token: str, commands: int, *, gated: bool = False) -> Claim:
        """Register the drain and take due lanes for it, `commands` at most; or retire it.

        `gated`: take nothing until the partition is restored.
        """
        return self.begin_claim(partition, drain, token, commands, gated=gated).result()

    def begin_claim(
        self, partition: Partition, drain: str, token: str, commands: int, *, gated: bool = False, holding: bool = False
    ) -> PendingReply[Claim]:
        """The same, without waiting for it. `holding`: the drain has a batch in hand, so it is not retired."""
        failpoint("claim request")
        return self._begin(self._protocol.claim(partition, drain, token, commands, gated, holding), _claimed)

    def ack(self, partition: Partition, token: str, lanes: Acknowledgements, reasons: Reasons = None) -> list[int]:
        """Remove decided entries and release the lanes; see Protocol.ack. -1: the claim was no longer ours."""
        return self.begin_ack(partition, token, lanes, reasons).result()

    def begin_ack(
        self, partition: Partition, token: str, lanes: Acknowledgements, reasons: Reasons = None
    ) -> PendingReply[list[int]]:
        """The same, without waiting for it."""
        failpoint("ack request")
        return self._begin(self._protocol.ack(partition, token, lanes, reasons), _acked)

    def renew(self, partition: Partition, drain: str, token: str, users: Sequence[bytes]) -> int:
        """Extend the claims; returns how many are still ours."""
        return int(self._run(self._protocol.renew(partition, drain, token, users)))

    def yield_(self, partition: Partition, drain: str) -> bool:
        """End a drain that has work left; True if its successor must be woken by the caller."""
        return bool(self._run(self._protocol.yield_(partition, drain)))

    def sweep(self, partition: Partition) -> tuple[bool, int]:
        """(a drain must be woken by the caller, how many expired claims were returned). Corrects the count."""
        wake, returned, wrong = self._run(self._protocol.sweep(partition))
        if wrong:
            log.warning(
                "%s: its count was %d too %s and was corrected", partition, abs(wrong), "high" if wrong > 0 else "low"
            )
        return bool(wake), int(returned)

    def recover(self, partition: Partition, users: Sequence[bytes]) -> int:
        """Put lanes that hold commands and are neither ready nor claimed into ready; returns how many."""
        return int(self._run(self._protocol.recover(partition, users)))

    def lease(self, partition: Partition, mode: str, lease: bytes = b"") -> Lease:
        """Take, replace, seize or release the relay's lease; `lease` is the value that is held. See lease.lua."""
        return self._protocol.leased(self._run(self._protocol.lease(partition, mode, uuid4().hex, lease)))

    def relay(
        self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, idle_only: bool = False
    ) -> Relayed:
        """Append outbox entries, unless Redis lost something in the meantime; see relay.lua."""
        return self._protocol.relayed(self._run(self._protocol.relay(partition, lease, lanes, idle_only=idle_only)))

    def refill(
        self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, last: bool = False
    ) -> Relayed:
        """Put outbox entries back at the head of their lanes; `last` unblocks the claims. See refill.lua."""
        return self._protocol.refilled(self._run(self._protocol.refill(partition, lease, lanes, last=last)))

    def empty(self, partition: Partition, users: Sequence[int]) -> list[int]:
        """Those of these users whose lanes hold nothing at this moment."""
        pipeline = server_of(self.redis, self.keys.of(partition, "ready")).pipeline(transaction=False)
        for user_id in users:
            pipeline.exists(self.keys.lane(partition, user_id))
        return [user_id for user_id, there in zip(users, pipeline.execute(), strict=True) if not there]

    def status(self, partition: Partition) -> Status:
        """Count what the partition holds."""
        *counts, age_ms = self._run(self._protocol.status(partition))
        return Status._make((*counts, age_ms / 1000))

    def close_partition(self, partition: Partition, layout: Layout) -> int:
        """Have pushes answered MOVED from now on; how many lanes still hold something or are claimed."""
        return int(self._run(self._protocol.close_partition(partition, layout)))


def _claimed(reply: Any) -> Claim:
    failpoint("claim reply")
    return Protocol.claimed(reply)


def _acked(reply: Any) -> list[int]:
    failpoint("ack reply")
    return list(reply)
