"""Handles without a database: where an outcome is looked for, and what is said when it is not found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import fakeredis
import pytest

from levelq_core import Outcome, OutcomeTimeout, OutcomeUnknown, QueueUnavailable, Settings, Totals
from levelq_core.errors import ConfigurationError, LaneFull, NotDurable
from levelq_core.lanes import outcome_streams as replies
from levelq_core.redis_client.per_loop import PerLoop
from levelq_producer import AsyncHandle, Handle
from levelq_producer.async_reply_reader import AsyncReplyReader
from levelq_producer.handles import Context
from levelq_producer.ledger_reader import LedgerReader
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


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def redis(server: fakeredis.FakeServer) -> Iterator[fakeredis.FakeRedis]:
    with fakeredis.FakeRedis(server=server) as client:
        yield client


@pytest.fixture
async def aredis(server: fakeredis.FakeServer) -> AsyncIterator[Any]:
    async with fakeredis.FakeAsyncRedis(server=server) as client:
        yield client


class Gone(ReplyReader):
    """Reads from a Redis that has gone away, and counts how often it was tried."""

    def __init__(self) -> None:
        super().__init__(fakeredis.FakeRedis(server=gone_away()), 1.0)
        self.asked = 0

    def wait(self, *args: Any, **options: Any) -> Outcome | None:
        self.asked += 1
        return super().wait(*args, **options)


class AsyncGone(AsyncReplyReader):
    def __init__(self) -> None:
        super().__init__(fakeredis.FakeAsyncRedis(server=gone_away()), 1.0)
        self.asked = 0

    async def wait(self, *args: Any, **options: Any) -> Outcome | None:
        self.asked += 1
        return await super().wait(*args, **options)


def gone_away() -> fakeredis.FakeServer:
    server = fakeredis.FakeServer()
    server.connected = False
    return server


class Owner:
    """What a loop reads with, on clients that the test closes."""

    def __init__(self, reader: AsyncReplyReader, ledger: LedgerReader | None) -> None:
        self.replies = reader
        self.ledger = None if ledger is None else LoopLedger(ledger)

    async def close(self) -> None:
        """The test closes its client."""

    def abandon(self) -> None:
        """The test closes its client."""


class Ledger(LedgerReader):
    """A ledger that has the outcome at the n-th question."""

    def __init__(self, finds_at: int) -> None:
        super().__init__(SETTINGS)
        self.asked = 0
        self._finds_at = finds_at

    def look_up(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        assert command_id == ID
        self.asked += 1
        return OUTCOME if self.asked >= self._finds_at else None


DIGEST, AT_MS = b"the digest sent.", 1_700_000_000_000
SENT = replies.send_key(DIGEST, AT_MS)


def context(redis: Any, ledger: LedgerReader | None = None) -> Context:
    return Context(redis if isinstance(redis, ReplyReader) else ReplyReader(redis, 1.0), SETTINGS, ledger)


def handle(redis: Any, ledger: LedgerReader | None = None, *, error: Any = None, kept: bool = True) -> Handle:
    return Handle(context(redis, ledger), ID, error, kept)


def ahandle(redis: Any, ledger: LedgerReader | None = None, *, error: Any = None, kept: bool = True) -> AsyncHandle:
    reader = redis if isinstance(redis, AsyncReplyReader) else AsyncReplyReader(redis, 1.0)
    owners = PerLoop(lambda: Owner(reader, ledger))
    return AsyncHandle(Context(owners, SETTINGS, ledger), ID, error, kept)


def test_a_kept_outcome_is_read_by_any_number_of_handles(redis: fakeredis.FakeRedis) -> None:
    replies.write(redis, KEYS, [(OUTCOME, SENT)], 60)
    for _ in range(2):
        assert handle(redis).result() == OUTCOME
    assert 0 < redis.ttl(KEYS.reply(ID.bytes)) <= 60


def sender(redis: Any, digest: bytes, pushed_ms: int) -> Handle:
    return Handle(context(redis), ID, None, True, digest, pushed_ms)


def test_a_send_reads_the_answer_to_its_own_content(redis: fakeredis.FakeRedis) -> None:
    conflict = OUTCOME.model_copy(update={"status": "rejected", "error": "conflict"})
    replies.write(redis, KEYS, [(conflict, replies.send_key(b"other", AT_MS)), (OUTCOME, SENT)], 60)
    assert sender(redis, DIGEST, AT_MS).result() == OUTCOME
    assert sender(redis, b"other", AT_MS).result() == conflict
    assert handle(redis).result() == OUTCOME  # who only knows the id gets the decision, not the conflict with it


def test_a_send_does_not_read_the_answer_to_another_send_of_the_same(redis: fakeredis.FakeRedis) -> None:
    again = OUTCOME.model_copy(update={"duplicate": True})
    replies.write(redis, KEYS, [(OUTCOME, SENT), (again, replies.send_key(DIGEST, AT_MS + 5))], 60)
    assert sender(redis, DIGEST, AT_MS).result().duplicate is False
    assert sender(redis, DIGEST, AT_MS + 5).result().duplicate is True
    with pytest.raises(OutcomeTimeout):
        sender(redis, DIGEST, AT_MS + 6).result(0.05)


def test_nothing_is_written_for_commands_nobody_flagged(redis: fakeredis.FakeRedis) -> None:
    replies.write(redis, KEYS, [], 60)
    assert redis.keys() == []


def test_a_reply_that_is_none_is_none() -> None:
    replies_of_nothing: list[Any] = [None, [], {}, [[b"key", []]]]
    for nothing in replies_of_nothing:
        assert all(replies.read_entries(entries, None) == (None, None) for _, entries in replies.streams(nothing))


def test_an_outcome_nobody_keeps_is_unknown_at_once() -> None:
    expected = f"nobody keeps the outcome of {ID}: send with reply=True, or set LEVELQ_DATABASE_URL"
    with pytest.raises(OutcomeUnknown) as caught:
        handle(Gone(), kept=False).result(timeout=10**6)
    assert str(caught.value) == expected


def test_what_was_not_queued_raises_why_not() -> None:
    refused = LaneFull("lane PLAYER:1 is full")
    made = handle(Gone(), Ledger(1), error=refused)
    assert made.error is refused
    with pytest.raises(LaneFull) as caught:
        made.result()
    assert caught.value is refused
    assert repr(made) == f"<Handle {ID} LaneFull('lane PLAYER:1 is full')>"


def test_what_is_queued_but_not_durable_has_an_outcome(redis: fakeredis.FakeRedis) -> None:
    replies.write(redis, KEYS, [(OUTCOME, SENT)], 60)
    short = NotDurable("no replica had it in time")
    made = handle(redis, error=short)
    assert made.result() == OUTCOME
    assert made.error is short


@pytest.mark.parametrize("timeout", [0.05, 0, -1])
def test_an_outcome_that_does_not_come_is_late(redis: fakeredis.FakeRedis, timeout: float) -> None:
    with pytest.raises(OutcomeTimeout) as caught:
        handle(redis).result(timeout)
    text = f"command {ID} was not decided within {timeout:g} s; outcomes are kept for 60 s"
    assert str(caught.value) == text
    assert handle(redis).error is None


def test_an_outcome_is_found_even_without_time_to_wait(redis: fakeredis.FakeRedis) -> None:
    replies.write(redis, KEYS, [(OUTCOME, SENT)], 60)
    assert handle(redis).result(0) == OUTCOME


def test_without_redis_the_queue_is_unavailable_and_the_password_hidden() -> None:
    with pytest.raises(QueueUnavailable) as caught:
        handle(Gone()).result()
    assert (
        str(caught.value) == "LEVELQ_REDIS_URL redis://:***@queue.example/0: FakeRedis is emulating a connection error."
    )


def test_without_redis_the_ledger_is_asked_alone() -> None:
    gone, ledger = Gone(), Ledger(3)
    assert handle(gone, ledger).result() == OUTCOME
    assert (gone.asked, ledger.asked) == (1, 3)


def test_what_was_not_flagged_is_asked_of_the_ledger_alone(redis: fakeredis.FakeRedis) -> None:
    replies.write(redis, KEYS, [(OUTCOME.model_copy(update={"message": "not this one"}), SENT)], 60)
    assert handle(redis, Ledger(2), kept=False).result() == OUTCOME


def test_with_both_the_ledger_is_asked_between_two_looks_at_redis(redis: fakeredis.FakeRedis) -> None:
    ledger = Ledger(1)
    assert handle(redis, ledger).result() == OUTCOME
    assert ledger.asked == 1


def test_with_a_ledger_a_late_outcome_is_said_to_be_kept_nowhere_else() -> None:
    with pytest.raises(OutcomeTimeout, match=r"was not decided within 0\.01 s$"):
        handle(Gone(), Ledger(10**6), kept=False).result(0.01)


def test_without_a_database_url_there_is_no_ledger_to_ask() -> None:
    assert LedgerReader.of(SETTINGS) is None
    assert LedgerReader.of(Settings.load(database_url="postgresql://u:s3cret@h/d")) is not None


def test_a_ledger_that_cannot_be_read_is_named_with_its_variable() -> None:
    ledger = LedgerReader(Settings.load(database_url="postgresql://u@h:port/d"))
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_DATABASE_URL: "):
        ledger.look_up(ID)


async def test_awaited_a_kept_outcome_is_read(redis: fakeredis.FakeRedis, aredis: Any) -> None:
    replies.write(redis, KEYS, [(OUTCOME, SENT)], 60)
    for _ in range(2):
        assert await ahandle(aredis).result() == OUTCOME


async def test_awaited_the_same_errors_are_raised(aredis: Any) -> None:
    with pytest.raises(OutcomeUnknown, match="nobody keeps the outcome"):
        await ahandle(AsyncGone(), kept=False).result()
    with pytest.raises(LaneFull):
        await ahandle(AsyncGone(), error=LaneFull("full")).result()
    with pytest.raises(OutcomeTimeout, match="outcomes are kept for 60 s"):
        await ahandle(aredis).result(0.05)
    with pytest.raises(
        QueueUnavailable, match=r":\*\*\*@queue\.example/0: FakeRedis is emulating a connection error\.$"
    ):
        await ahandle(AsyncGone()).result()


async def test_awaited_the_ledger_is_asked_too() -> None:
    gone, ledger = AsyncGone(), Ledger(3)
    assert await ahandle(gone, ledger).result() == OUTCOME
    assert (gone.asked, ledger.asked) == (1, 3)
    assert await ahandle(AsyncGone(), Ledger(2), kept=False).result() == OUTCOME
