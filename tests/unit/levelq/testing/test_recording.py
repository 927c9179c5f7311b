"""RecordingProducer and AsyncRecordingProducer: what was sent, what fails, what answers. No server, no connection."""

import inspect
from typing import Any
from uuid import UUID

import pytest

from levelq import (
    Adjust,
    AsyncProducer,
    ConfigurationError,
    InvalidArgument,
    InvalidCommand,
    LaneFull,
    LevelUp,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    Producer,
    ProducerClosed,
    Reset,
    SetLevel,
    SyncLevels,
    command_id_for,
)
from levelq.testing import AsyncRecordingProducer, RecordingProducer

# What these classes take from the real producers: it reaches a server only by `send` and `send_many`.
INHERITED = {"from_url", "level_up", "set_level", "sync", "adjust", "reset"}


@pytest.fixture
def producer() -> RecordingProducer:
    return RecordingProducer()


@pytest.mark.parametrize(("real", "local"), [(Producer, RecordingProducer), (AsyncProducer, AsyncRecordingProducer)])
def test_every_method_of_a_real_producer_is_replaced_with_the_same_parameters(real: type, local: type) -> None:
    """Or it would reach for a server that is not there."""
    assert issubclass(local, real)
    methods = {name: method for name, method in inspect.getmembers(real, callable) if not name.startswith("_")}
    for name, method in methods.items():
        same = getattr(local, name)
        assert (getattr(same, "__func__", same) is getattr(method, "__func__", method)) == (name in INHERITED), name
        assert list(inspect.signature(same).parameters) == list(inspect.signature(method).parameters), name


def test_commands_are_recorded_as_they_were_sent_in_their_order(producer: RecordingProducer) -> None:
    with producer as entered:
        first = entered.level_up(42, "player", 150, reason="match")
        entered.set_level(42, "PLAYER", 3)
        entered.sync(7, "COACH", "license")
        entered.adjust(7, "COACH", -5)
        entered.reset(7, "COACH", 100)
        entered.send_many(LevelUp(user_id=n, specialization="PLAYER") for n in (1, 2))
    kinds = [type(command) for command in producer.sent]
    assert kinds == [LevelUp, SetLevel, SyncLevels, Adjust, Reset, LevelUp, LevelUp]
    assert first.command_id == producer.sent[0].command_id
    assert producer.assert_sent(LevelUp, user_id=42, specialization="player", xp_gained=150) is producer.sent[0]
    producer.assert_sent_count(3, LevelUp)
    producer.assert_sent_count(7)
    producer.assert_not_sent(LevelUp, user_id=43)
    producer.clear()
    producer.assert_not_sent()


async def test_async_producer_records_the_same() -> None:
    async with AsyncRecordingProducer() as producer:
        producer.answer(LevelUp, user_id=42, outcome={"to_level": 2})
        handle = await producer.level_up(42, "PLAYER", 150)
        assert (await handle).to_level == 2
        assert (await producer.handle(handle.command_id).result()).to_level == 2
        assert await producer.state(handle.command_id) == "decided"
        assert await producer.outcome(handle.command_id) == await handle
        await producer.wait_until_applied(42, "PLAYER")
        producer.assert_sent(LevelUp, user_id=42, xp_gained=150)


FAILURES: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    (
        "assert_sent",
        (LevelUp,),
        {"user_id": 42, "xp_gained": 150},
        "not sent: LevelUp(user_id=42, xp_gained=150)\n"
        "sent: 2 commands\n"
        "  LevelUp(user_id=42, specialization='PLAYER', xp_gained=100)  <- xp_gained is 100\n"
        "  SetLevel(user_id=7, specialization='COACH', new_level=2)  <- not a LevelUp",
    ),
    (
        "assert_sent",
        (),
        {"new_level": 3},
        "not sent: command(new_level=3)\n"
        "sent: 2 commands\n"
        "  SetLevel(user_id=7, specialization='COACH', new_level=2)  <- new_level is 2\n"
        "  LevelUp(user_id=42, specialization='PLAYER', xp_gained=100)  <- has no new_level",
    ),
    (
        "assert_not_sent",
        (SetLevel,),
        {},
        "expected not to be sent: SetLevel()\n"
        "sent: 1 command\n"
        "  SetLevel(user_id=7, specialization='COACH', new_level=2)",
    ),
    (
        "assert_sent_count",
        (2, LevelUp),
        {"user_id": 42},
        "expected 2 of LevelUp(user_id=42), 1 sent\n"
        "sent: 2 commands\n"
        "  LevelUp(user_id=42, specialization='PLAYER', xp_gained=100)\n"
        "  SetLevel(user_id=7, specialization='COACH', new_level=2)  <- not a LevelUp",
    ),
]


@pytest.mark.parametrize(("method", "arguments", "fields", "message"), FAILURES)
def test_failed_assertion_shows_what_was_sent_instead(
    producer: RecordingProducer, method: str, arguments: tuple[Any, ...], fields: dict[str, Any], message: str
) -> None:
    producer.set_level(7, "COACH", 2)
    producer.level_up(42, "PLAYER", 100)
    with pytest.raises(AssertionError) as caught:
        getattr(producer, method)(*arguments, **fields)
    assert str(caught.value) == message


def test_failed_assertion_says_that_nothing_was_sent_and_lists_twenty_at_most(producer: RecordingProducer) -> None:
    with pytest.raises(AssertionError, match=r"not sent: LevelUp\(\)\nnothing was sent"):
        producer.assert_sent(LevelUp)
    producer.send_many(LevelUp(user_id=n, specialization="PLAYER") for n in range(1, 31))
    with pytest.raises(AssertionError, match="and 10 more") as caught:
        producer.assert_sent(SetLevel)
    assert len(str(caught.value).splitlines()) == 23


@pytest.mark.parametrize("method", ["assert_sent", "assert_not_sent"])
def test_expectation_that_nothing_can_meet_is_an_error(producer: RecordingProducer, method: str) -> None:
    with pytest.raises(TypeError, match=r"xp: expected fields of LevelUp, which are user_id, .*xp_gained"):
        getattr(producer, method)(LevelUp, xp=150)
    with pytest.raises(TypeError, match=r"xp: expected fields of commands, which are"):
        getattr(producer, method)(xp=150)
    with pytest.raises(TypeError, match=r"kind: expected LevelUp, .*got 'LevelUp'"):
        getattr(producer, method)("LevelUp")


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"xp_gained": -1}, "xp_gained"), ({"theory_hours": 1}, "theory"), ({"specialization": "CHESS"}, "CHESS")],
)
def test_invalid_command_raises_before_anything_is_recorded(
    producer: RecordingProducer, fields: dict[str, Any], named: str
) -> None:
    given: dict[str, Any] = {"user_id": 42, "specialization": "PLAYER", "xp_gained": 1} | fields
    with pytest.raises(InvalidCommand, match=named):
        producer.level_up(**given)
    valid = LevelUp(user_id=1, specialization="PLAYER")
    with pytest.raises(InvalidCommand):
        producer.send_many([valid, LevelUp(user_id=1, specialization="CHESS")])
    with pytest.raises(ConfigurationError, match="durability"):
        producer.send(valid, durability="none")  # type: ignore[arg-type]
    producer.assert_not_sent()


def test_latest_answer_that_fits_is_the_outcome(producer: RecordingProducer) -> None:
    producer.answer(outcome={"to_level": 1})
    producer.answer(LevelUp, user_id=42, outcome={"error": "validation_error", "message": "no such user"})
    refused, applied = producer.level_up(42, "PLAYER", 150), producer.level_up(7, "PLAYER", 150)
    outcome = refused.result()
    assert (outcome.status, outcome.error, outcome.message) == ("rejected", "validation_error", "no such user")
    assert (outcome.command_id, outcome.user_id, outcome.specialization) == (refused.command_id, 42, "PLAYER")
    assert (applied.result().status, applied.result().to_level) == ("applied", 1)
    assert producer.handle(applied.command_id).result(timeout=None) == producer.outcome(applied.command_id)
    producer.answer(LevelUp, user_id=7, outcome={"to_level": 2})  # after the send is early enough
    assert applied.result().to_level == 2


def test_prepared_error_comes_where_a_real_producer_raises_it(producer: RecordingProducer) -> None:
    producer.answer(user_id=1, raises=LaneFull("full"))
    producer.answer(user_id=2, raises=NotDurable("one disk"))
    producer.answer(user_id=3, raises=OutcomeTimeout("no worker"))
    with pytest.raises(LaneFull):
        producer.level_up(1, "PLAYER", 1)
    with pytest.raises(NotDurable):  # it is queued all the same
        producer.level_up(2, "PLAYER", 1)
    late = producer.level_up(3, "PLAYER", 1)
    with pytest.raises(OutcomeTimeout, match="no worker"):
        late.result()
    assert [command.user_id for command in producer.sent] == [2, 3]
    full, fine = producer.send_many(LevelUp(user_id=n, specialization="PLAYER") for n in (1, 4))
    assert isinstance(full.error, LaneFull) and fine.error is None
    with pytest.raises(LaneFull):
        full.result()


def test_result_that_nothing_prepared_fails_the_test_and_says_what_to_do(producer: RecordingProducer) -> None:
    handle = producer.level_up(42, "PLAYER", 150)
    with pytest.raises(AssertionError, match=r"no outcome was prepared for LevelUp\(user_id=42, .*answer\(LevelUp"):
        handle.result()
    assert (producer.state(handle.command_id), producer.outcome(handle.command_id)) == ("queued", None)
    stranger = LevelUp(user_id=1, specialization="PLAYER")
    with pytest.raises(OutcomeUnknown, match="was not sent through this RecordingProducer"):
        producer.handle(stranger.command_id).result()
    assert producer.state(stranger.command_id) == "unknown"
    with pytest.raises(OutcomeUnknown, match="is unknown"):
        producer.outcome(stranger.command_id)
    with pytest.raises(OutcomeUnknown, match="reply=True"):  # as a real one without a database
        producer.send(stranger, reply=False).result()


def test_key_misuse_and_closed_producer_are_those_of_a_real_one(producer: RecordingProducer) -> None:
    producer.level_up(42, "PLAYER", 150, idempotency_key="match-991", reply=False)
    handle = producer.handle(command_id_for("match-991"))
    producer.assert_sent(LevelUp, idempotency_key="match-991")
    producer.assert_not_sent(idempotency_key="match-992")
    for wait in (handle.result, lambda timeout: producer.wait_until_applied(42, "PLAYER", timeout)):
        with pytest.raises(InvalidArgument, match="timeout: expected a number of seconds above 0"):
            wait(0)
    of_no_user: tuple[Any, ...] = ("42", "PLAYER")
    with pytest.raises(InvalidCommand, match="user_id: expected an integer"):
        producer.wait_until_applied(*of_no_user)
    with pytest.raises(InvalidCommand, match="user_id: expected an integer"):
        producer.state(UUID(int=1), *of_no_user)
    with pytest.raises(InvalidCommand, match=r"specialization: expected one of PLAYER, .*got 'PLAYR'"):
        producer.wait_until_applied(42, "PLAYR")
    producer.close()
    for call in (
        handle.result,
        lambda: producer.level_up(42, "PLAYER", 1),
        lambda: producer.state(handle.command_id),
        lambda: producer.wait_until_applied(42, "PLAYER"),
    ):
        with pytest.raises(ProducerClosed):
            call()
    producer.assert_sent_count(1)


def test_answer_with_a_field_that_does_not_exist_is_an_error(producer: RecordingProducer) -> None:
    with pytest.raises(TypeError, match="outcome: expected fields of Outcome, got level"):
        producer.answer(LevelUp, outcome={"level": 3})
    with pytest.raises(TypeError, match="expected one of the two"):
        producer.answer(LevelUp)
    with pytest.raises(TypeError, match="xp: expected fields of LevelUp"):
        producer.answer(LevelUp, xp=3, outcome={})


class MatchWon(LevelUp):
    """An application's own command: producers and workers take it for what it is, a LevelUp."""

    match_id: int = 0


def test_subclass_of_a_command_counts_as_its_kind_and_as_its_own(producer: RecordingProducer) -> None:
    producer.answer(LevelUp, outcome={"to_level": 2})
    assert producer.send(won := MatchWon(user_id=1, specialization="PLAYER", xp_gained=150, match_id=7)).result()
    producer.level_up(2, "PLAYER", 150)
    assert producer.assert_sent(LevelUp, xp_gained=150) is producer.assert_sent(MatchWon, match_id=7) is won
    producer.assert_sent_count(2, LevelUp)
    producer.assert_sent_count(1, MatchWon)
    with pytest.raises(AssertionError, match="expected not to be sent"):
        producer.assert_not_sent(LevelUp, user_id=1)
    producer.assert_not_sent(SetLevel)
