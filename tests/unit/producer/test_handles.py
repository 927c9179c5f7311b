"""Handles without a database, for threads and for asyncio: where an outcome is read, and the error without one."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import fakeredis
import pytest

from levelq_core import LevelUp, Outcome, OutcomeTimeout, OutcomeUnknown, QueueUnavailable, Settings, Totals
from levelq_core.domain.codec import digest_in, encode
from levelq_core.errors import ConfigurationError, InvalidArgument, LaneFull, NotDurable
from levelq_core.lanes import outcome_streams
from levelq_core.lanes.async_producer_lanes import AsyncProducerLanes
from levelq_core.lanes.producer_lanes import ProducerLanes
from levelq_producer import AsyncHandle, Handle
from levelq_producer.async_reply_reader import AsyncReplyReader
from levelq_producer.ledger_reader import Key, LedgerReader
from levelq_producer.loop_ledger import LoopLedger
from levelq_producer.reply_reader import ReplyReader
from tests.support.fixtures.keys import KEYS

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
SETTINGS = Settings.load(redis_url="redis://:s3cret@queue.example/0")
STATE = Totals(
    progress_level=3,
    license_level=3,
    max_achieved_level=4,
    total_xp=2**62,
    completed_sessions=1,
    completed_projects=2,
    theory_hours=0,
    practice_hours=0,
)
OUTCOME = Outcome(
    command_id=ID,
    user_id=2**63 - 1,
    specialization="PLAYER",
    status="applied",
    message="level 1 -> 3",
    from_level=1,
    to_level=3,
    before=STATE.model_copy(update={"progress_level": 1}),
    after=STATE,
)
COMMAND = LevelUp(command_id=ID, user_id=1, specialization="PLAYER", xp_gained=5)
OTHER = COMMAND.model_copy(update={"xp_gained": 6})
AT_MS = 1_700_000_000_000
Ask = Callable[..., Outcome]


def send_key(command: LevelUp = COMMAND, at_ms: int = AT_MS) -> bytes:
    return outcome_streams.send_key(digest_in(encode(command)), at_ms)


class Ledger(LedgerReader):
    """A ledger that has the outcome at the n-th query."""

    def __init__(self, finds_at: int) -> None:
        super().__init__(SETTINGS)
        self.asked = 0
        self._finds_at = finds_at

    def query(self, keys: Sequence[Key]) -> list[Outcome | None]:
        assert [command_id for command_id, _ in keys] == [ID]
        self.asked += 1
        return [OUTCOME if self.asked >= self._finds_at else None]

    def in_outbox(self, command_id: UUID) -> str | None:
        return None


class Counted(ReplyReader):
    """Counts the waits for Redis."""

    waits = 0

    def wait(self, *args: Any, **options: Any) -> Outcome | None:
        Counted.waits += 1
        return super().wait(*args, **options)


class AsyncCounted(AsyncReplyReader):
    async def wait(self, *args: Any, **options: Any) -> Outcome | None:
        Counted.waits += 1
        return await super().wait(*args, **options)


@pytest.fixture
def server() -> fakeredis.FakeServer:
    Counted.waits = 0
    return fakeredis.FakeServer()


@pytest.fixture
def redis(server: fakeredis.FakeServer) -> Iterator[fakeredis.FakeRedis]:
    with fakeredis.FakeRedis(server=server) as client:
        yield client


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest, server: fakeredis.FakeServer) -> Ask:
    """Ask a handle of one kind for its outcome. `sent`: when this process sent which command; else it only has the id.

    `error`: of the send; `kept`: whether Redis keeps the outcome.
    """

    def prepared(kind: Any, connections: Any, sent: Any, kept: bool, error: Any) -> Any:
        around = SimpleNamespace(settings=SETTINGS, get=lambda: connections)
        command, at_ms = sent or (None, 0)
        handle = kind(around, ID, kept, command, encode(command) if command else b"")
        handle.pushed_ms, handle.error = at_ms, error
        return handle

    def in_thread(
        timeout: float = 5.0, *, ledger: Any = None, sent: Any = None, kept: bool = True, error: Any = None
    ) -> Outcome:
        with fakeredis.FakeRedis(server=server) as client:
            lanes = ProducerLanes(client, SETTINGS)
            connections = SimpleNamespace(settings=SETTINGS, lanes=lanes, replies=Counted(client, 1.0), ledger=ledger)
            outcome: Outcome = prepared(Handle, connections, sent, kept, error).result(timeout)
            return outcome

    async def in_loop(
        timeout: float = 5.0, *, ledger: Any = None, sent: Any = None, kept: bool = True, error: Any = None
    ) -> Outcome:
        async with fakeredis.FakeAsyncRedis(server=server) as client:
            lanes, replies = AsyncProducerLanes(client, SETTINGS), AsyncCounted(client, 1.0)
            connections = SimpleNamespace(
                settings=SETTINGS, lanes=lanes, replies=replies, ledger=ledger and LoopLedger(ledger)
            )
            outcome: Outcome = await prepared(AsyncHandle, connections, sent, kept, error).result(timeout)
            return outcome

    return in_thread if request.param == "threads" else lambda *args, **given: asyncio.run(in_loop(*args, **given))


@pytest.fixture
def kept(redis: fakeredis.FakeRedis) -> None:
    outcome_streams.write(redis, KEYS, [(OUTCOME, send_key())], 60)


@pytest.mark.usefixtures("kept")
def test_kept_outcome_is_read_any_number_of_times_even_without_time_to_wait(ask: Ask, redis: Any) -> None:
    assert [ask(), ask(), ask(0.001)] == [OUTCOME] * 3
    assert 0 < redis.ttl(KEYS.reply(ID.bytes)) <= 60


def test_send_reads_the_outcome_of_its_own_content(ask: Ask, redis: fakeredis.FakeRedis) -> None:
    conflict = OUTCOME.model_copy(update={"status": "rejected", "error": "conflict"})
    outcome_streams.write(redis, KEYS, [(conflict, send_key(OTHER)), (OUTCOME, send_key())], 60)
    assert ask(sent=(COMMAND, AT_MS)) == OUTCOME
    assert ask(sent=(OTHER, AT_MS)) == conflict
    assert ask() == OUTCOME  # a handle that only has the id gets the decision, not the conflict with it


def test_send_does_not_read_the_outcome_of_another_send_of_the_same(ask: Ask, redis: fakeredis.FakeRedis) -> None:
    again = OUTCOME.model_copy(update={"duplicate": True})
    outcome_streams.write(redis, KEYS, [(OUTCOME, send_key()), (again, send_key(at_ms=AT_MS + 5))], 60)
    assert ask(sent=(COMMAND, AT_MS)).duplicate is False
    assert ask(sent=(COMMAND, AT_MS + 5)).duplicate is True
    with pytest.raises(OutcomeTimeout):
        ask(0.05, sent=(COMMAND, AT_MS + 6))


def test_nothing_is_written_without_a_flagged_command(redis: fakeredis.FakeRedis) -> None:
    outcome_streams.write(redis, KEYS, [], 60)
    assert redis.keys() == []


@pytest.mark.parametrize("nothing", [None, [], {}, [[b"key", []]]], ids=repr)
def test_reply_without_entries_has_no_outcome(nothing: Any) -> None:
    for _, entries in outcome_streams.streams(nothing):
        assert outcome_streams.read_entries(entries, None) == (None, None)


def test_outcome_that_is_kept_nowhere_is_unknown_at_once(ask: Ask) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        ask(10**6, kept=False)
    expected = f"the outcome of {ID} is not kept: send with reply=True, or set LEVELQ_DATABASE_URL"
    assert (str(caught.value), Counted.waits) == (expected, 0)


@pytest.mark.usefixtures("kept")
def test_handle_of_a_command_that_was_not_queued_raises_why(ask: Ask) -> None:
    refused = LaneFull("lane PLAYER:1 is full")
    with pytest.raises(LaneFull) as caught:
        ask(error=refused, ledger=Ledger(1))
    assert caught.value is refused
    assert Counted.waits == 0


@pytest.mark.parametrize("kind", [Handle, AsyncHandle])
def test_handle_shows_its_id_and_error(kind: Any) -> None:
    handle = kind(None, ID, True)
    assert repr(handle) == f"<{kind.__name__} {ID}>"
    handle.error = LaneFull("full")
    assert repr(handle) == f"<{kind.__name__} {ID} LaneFull('full')>"


@pytest.mark.usefixtures("kept")
def test_queued_command_that_is_not_durable_has_an_outcome(ask: Ask) -> None:
    assert ask(error=NotDurable("no replica had it in time")) == OUTCOME


def test_outcome_that_does_not_come_in_time_is_late(ask: Ask) -> None:
    with pytest.raises(OutcomeTimeout, match=rf"^command {ID} was not decided within 0\.05 s; its state ") as caught:
        ask(0.05)
    assert (caught.value.command_id, caught.value.timeout) == (ID, 0.05)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("-inf"), "5", True, Decimal(5)], ids=repr)
def test_timeout_that_is_no_number_above_0_is_refused(ask: Ask, timeout: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^timeout: expected a number of seconds above 0, or None") as caught:
        ask(timeout)
    assert (caught.value.field, repr(caught.value.value), Counted.waits) == ("timeout", repr(timeout), 0)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("timeout", [None, float("inf"), 10**12], ids=repr)
def test_outcome_may_be_awaited_without_end(ask: Ask, timeout: Any) -> None:
    assert ask(timeout) == OUTCOME


@pytest.fixture
def gone(server: fakeredis.FakeServer) -> None:
    server.connected = False


@pytest.mark.usefixtures("gone")
def test_without_redis_the_queue_is_unavailable_and_the_password_hidden(ask: Ask) -> None:
    with pytest.raises(QueueUnavailable) as caught:
        ask()
    address = "LEVELQ_REDIS_URL redis://:***@queue.example/0"
    assert str(caught.value) == f"{address}: FakeRedis is emulating a connection error."


@pytest.mark.usefixtures("gone")
def test_without_redis_the_ledger_is_asked_alone(ask: Ask) -> None:
    ledger = Ledger(3)
    assert ask(ledger=ledger) == OUTCOME
    assert (Counted.waits, ledger.asked) == (1, 3)


def test_outcome_that_was_not_flagged_is_asked_of_the_ledger_alone(ask: Ask, redis: fakeredis.FakeRedis) -> None:
    outcome_streams.write(redis, KEYS, [(OUTCOME.model_copy(update={"message": "not this one"}), send_key())], 60)
    assert ask(ledger=Ledger(2), kept=False) == OUTCOME
    assert Counted.waits == 0


def test_with_both_the_ledger_is_asked_between_two_waits_for_redis(ask: Ask) -> None:
    ledger = Ledger(1)
    assert ask(ledger=ledger) == OUTCOME
    assert ledger.asked == 1


@pytest.mark.usefixtures("gone")
def test_with_a_ledger_a_late_outcome_is_kept_for_ever(ask: Ask) -> None:
    with pytest.raises(OutcomeTimeout, match=r"its state cannot be read: FakeRedis"):
        ask(0.01, ledger=Ledger(10**6), kept=False)


def test_without_a_database_url_there_is_no_ledger_to_ask() -> None:
    assert LedgerReader.of(SETTINGS) is None
    assert LedgerReader.of(Settings.load(database_url="postgresql://u:s3cret@h/d")) is not None


def test_ledger_that_cannot_be_read_is_named_with_its_variable() -> None:
    ledger = LedgerReader(Settings.load(database_url="postgresql://u@h:port/d"))
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_DATABASE_URL: "):
        ledger.outcome(ID)
