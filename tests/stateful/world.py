"""The real side: the scripts on one engine, the transaction on PostgreSQL, the relay, and foreign code with a lock."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Engine, text

from levelq_core import Command
from levelq_core import failpoints as faults
from levelq_core.coupler.lane_batch import LaneBatch
from levelq_core.database import outbox_insert as outbox_writing
from levelq_core.domain.codec import STAMP_DIGITS, VERSION, encode
from levelq_core.lanes import script_files
from levelq_core.lanes.protocol import Protocol
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_worker.draining.batch import Batch
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.partition import PartitionRelay
from levelq_worker.relay.restore import OutboxRestore
from levelq_worker.withdrawal.canceller import Canceller
from levelq_worker.withdrawal.waiting_lanes import Scope
from tests.conformance.kit import PARTITION, Bench, malformed_identity
from tests.support.coupler import Observed, Tables, apply_batch, clear, ledger, tables
from tests.support.fixtures.keys import KEYS

USERS = (1, 2, 3, 4)
# Small enough that limits are met and batches are cut. Time passes only where the machine advances it.
SETTINGS: dict[str, Any] = {
    "claim_seconds": 3600.0,
    "lane_limit": 6,
    "partition_limit": 14,
    "batch_lanes": 3,
    "batch_commands": 8,
    "lane_commands": 4,
    "payload_limit": 512,
}
HOLD_MS = "20"  # how long a batch waits for a row that foreign code holds
_WRITES = {"ready": "ZADD", "count": "INCRBY", "append": "RPUSH", "reserve": "SET"}
_DIES = (
    "local server = redis; local redis = setmetatable({{ call = function(command, ...)"
    " if command == '{}' then error('the server died') end return server.call(command, ...)"
    " end }}, {{ __index = server }})\n"
)


class Lost(Exception):
    """The drain does not learn what became of its transaction."""


class Asleep(Waker):
    """Wake-ups are lost: a drain runs when the machine starts it."""

    def wake(self, partition: Any) -> None:
        """Do nothing."""


class Seen(NamedTuple):
    """What the partition's keys hold."""

    lanes: dict[int, list[bytes]]
    ready: list[int]
    claimed: dict[int, str]
    drains: set[str]
    waking: bool
    counted: int
    filled: bool


class Written(NamedTuple):
    """What the database holds."""

    tables: Tables
    ledger: dict[int, list[tuple[UUID, str, str | None]]]
    outbox: list[UUID]
    quarantine: list[tuple[int, bytes]]


class World:
    """One engine and one database, emptied for each example."""

    def __init__(self, redis: Redis, engine: Engine, holder: psycopg.Connection[Any]) -> None:
        self.bench = Bench(redis, database_url="postgresql://elsewhere", **SETTINGS)
        self.settings = self.bench.settings
        self._engine = engine
        self._holder = holder
        self.runtime = Runtime(self.settings)
        self.runtime.engine, self.runtime.lanes = engine, self.bench.lanes
        self.runtime.waker = Asleep(redis, redis, self.settings.keys)
        self.transactions = self.runtime.transactions = Observed(engine, self.settings)
        self._limits = self.transactions._limits
        self._rows = OutboxRows(engine)
        self.reset()

    def reset(self) -> None:
        """Empty both; no process remembers anything."""
        self.bench.redis.flushall()
        self.let_go()
        with self._engine.begin() as connection:
            clear(connection)
            connection.execute(text("DELETE FROM levelq_quarantine"))
        self.transactions.seen.clear()
        self.relay = self._new_relay()

    @staticmethod
    def token(number: int) -> str:
        """What fences the claim of this number."""
        return f"token-{number}"

    # Redis

    def look(self) -> Seen:
        key, pipeline = self.bench.key, self.bench.redis.pipeline(transaction=False)
        for user in USERS:
            pipeline.lrange(KEYS.lane(PARTITION, user), 0, -1)
        for name in ("ready", "claimed", "drains"):
            pipeline.zrange(key(name), 0, -1)
        pipeline.hgetall(key("tokens")).exists(key("wake")).exists(key("filled")).get(key("count"))
        pipeline.hkeys(key("parked"))
        *found, ready, claimed, drains, tokens, waking, filled, count, parked = pipeline.execute()
        assert set(claimed) == set(tokens)
        assert set(parked) <= set(ready) | set(claimed)
        return Seen(
            {user: [e[STAMP_DIGITS:] for e in entries] for user, entries in zip(USERS, found, strict=True)},
            [int(user) for user in ready],
            {int(user): token.decode() for user, token in tokens.items()},
            {drain.decode() for drain in drains},
            bool(waking),
            int(count or 0),
            bool(filled),
        )

    def push_breaks_off(self, user: int, payload: bytes, before: str) -> bool:
        """push.lua dies before a write; False if it does not come to that. What it has written stays."""
        call = Protocol(self.settings).push(PARTITION, [(user, [payload])])
        script = script_files.load("push").text  # what Lanes would run
        at = script.index("\n") + 1 if script.startswith("#!") else 0
        dying = script[:at] + _DIES.format(_WRITES[before]) + script[at:]
        try:
            self.bench.redis.eval(dying, 1, call.key, *call.args)
        except ResponseError:
            return True
        return False

    def remember(self) -> dict[str, Any]:
        """A copy of all that Redis holds."""
        return self.bench.everything() | {"wake left": self.bench.redis.pttl(self.bench.key("wake"))}

    def roll_back(self, kept: dict[str, Any], seconds_ago: float) -> None:
        """Redis is as it was, on a new run of the server: no relay has its lease any more."""
        redis, wake_left = self.bench.redis, kept["wake left"]
        redis.flushall()
        for name in kept.keys() - {"wake left", "relay"}:
            key, value = self.bench.key(name), kept[name]
            if isinstance(value, bytes):
                redis.set(key, value, px=wake_left if name == "wake" else None)
            elif isinstance(value, dict):
                redis.hset(key, mapping=value)
            elif isinstance(value[0], bytes):
                redis.rpush(key, *value)
            else:
                redis.zadd(key, dict(value))
        self.bench.pass_time(seconds_ago)

    # The transaction

    def apply(self, batch: Batch, stops_at: str | None) -> bool:
        """Run the transaction, or lose it at a fault point; False if nothing was committed."""

        def stop() -> None:
            raise Lost

        try:
            with at(stops_at, stop):
                apply_batch(self.transactions, batch.lane_batches, batch.quarantined)
        except Lost:
            return stops_at == "commit reply"
        return True

    def hold(self, user: int) -> None:
        """Foreign code locks the user's row, or makes one and does not commit it."""
        found = self._holder.execute("SELECT FROM specialization_progress WHERE student_id = %s FOR UPDATE", (user,))
        if not found.rowcount:
            self._holder.execute(
                "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp,"
                " created_at) VALUES (%s, 'PLAYER', 1, 0, now())",
                (user,),
            )
        self.transactions._limits = (HOLD_MS, *self._limits[1:])

    def let_go(self) -> None:
        """It ends, and leaves nothing behind."""
        self._holder.rollback()
        self.transactions._limits = self._limits

    def written(self) -> Written:
        with self._engine.connect() as connection:
            lanes: dict[int, list[tuple[UUID, str, str | None]]] = {}
            for row in ledger(connection):
                lanes.setdefault(row["user_id"], []).append((row["command_id"], row["status"], row["error"]))
            quarantine = connection.execute(text("SELECT user_id, raw FROM levelq_quarantine"))
            found = [(row.user_id, bytes(row.raw)[STAMP_DIGITS:]) for row in quarantine]
            return Written(tables(connection), lanes, [row[0] for row in self._outbox(connection)], sorted(found))

    # The outbox

    def store(self, command: Command) -> bool:
        """Commit a command to the outbox; False if its id is there already."""
        row = {
            "command_ids": [str(command.command_id)],
            "user_ids": [command.user_id],
            "specializations": [command.specialization],
            "payloads": [encode(command).hex()],
        }
        with self._engine.begin() as connection:
            return bool(connection.execute(text(outbox_writing.INSERT), row).fetchall())

    def marks(self) -> dict[UUID, bool]:
        """Which rows of the outbox are marked as pushed, in their order."""
        with self._engine.connect() as connection:
            return {row.command_id: row.marked for row in self._outbox(connection)}

    @staticmethod
    def _outbox(connection: Any) -> list[Any]:
        query = "SELECT command_id, pushed_at IS NOT NULL AS marked FROM levelq_outbox ORDER BY id"
        return list(connection.execute(text(query)))

    def cancel(self, user: int, command_id: UUID | None) -> None:
        """An operator takes back what waits of a user, or one command of theirs."""
        canceller = Canceller(self._engine, self.bench.lanes, self.runtime.waker, self.settings)
        canceller.run(Scope(("PLAYER",), user, command_id))

    def fill(self) -> bool:
        """What a drain does that finds claims blocked."""
        return OutboxRestore(self.bench.lanes, self._rows, self.runtime.waker).ensure_restored(PARTITION)

    def poll(self, lost: str | None = None) -> None:
        """One round of the relay, of which each push loses its request or its reply."""
        push = self.bench.lanes.relay

        def cut(*args: Any, **how: Any) -> None:
            if lost == "reply":
                push(*args, **how)
            raise RedisError(f"the {lost} was lost")

        with pytest.MonkeyPatch.context() as patch:
            if lost is not None:
                patch.setattr(self.bench.lanes, "relay", cut)
            try:
                self.relay.poll()
            except RedisError:
                self.relay.unconfirm_all()

    def replace_relay(self) -> None:
        """Another worker's relay takes over."""
        self.relay.release()
        self.relay = self._new_relay()

    def _new_relay(self) -> PartitionRelay:
        return PartitionRelay(PARTITION, Layout(), self.bench.lanes, self._rows, self.runtime.waker, self.settings)

    # Workers as they are

    def drain(self) -> list[Sequence[LaneBatch]]:
        """Run a drain to its end; the batches that it committed."""
        self.transactions.seen.clear()
        Drain(self.runtime, PARTITION).run()
        return [seen.works for seen in self.transactions.seen]

    def take_newer(self) -> None:
        """A worker of a newer version takes what only it can read, where that is next in its lane."""
        claim = self.bench.claim("newer", drain="newer")
        for user, entries in claim.lanes:
            head = entries[0]
            taken = (
                [malformed_identity(head)]
                if isinstance(head, bytes) and head[STAMP_DIGITS + 2 :][:1] == bytes([VERSION + 1])
                else []
            )
            self.bench.ack("newer", int(user), *taken)


@contextmanager
def at(point: str | None, happen: Callable[[], object]) -> Iterator[None]:
    """Let something happen when a fault point is passed."""

    def hook(name: str) -> None:
        if name == point:
            happen()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "hook", hook)
        yield
