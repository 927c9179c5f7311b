"""What follows a push for each level of durability, and what the replies mean."""

import json
import pickle
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import ResponseError

from levelq_core import ConfigurationError, LevelUp, NotDurable, QueueUnavailable, SendUnknown, Settings
from levelq_core.errors import LaneFull
from levelq_core.operations.verify import Recorder
from levelq_core.settings import Durability
from levelq_producer.durability import LEVELS, DurabilityWait

SETTINGS = Settings.load(redis_url="redis://app:s3cret@queue.example:6379/0", durable_seconds=1.5)
ID = UUID(int=7)
ALWAYS, EVERYSEC = {"appendfsync": "always"}, {"appendfsync": "everysec"}
REFUSED = ResponseError("no permissions")


def wait(level: Durability, **given: Any) -> DurabilityWait:
    return DurabilityWait(SETTINGS.model_copy(update=given), level)


def test_commands_behind_a_push_grow_with_the_level() -> None:
    assert wait("memory").commands == []
    assert wait("fsync").commands == [("WAITAOF", 1, 0, 1500), ("CONFIG GET", "appendfsync")]
    assert wait("replicated").commands == [("WAITAOF", 1, 0, 1500), ("WAIT", 1, 1500), ("CONFIG GET", "appendfsync")]


@pytest.mark.parametrize(("given", "milliseconds"), [({"redis_seconds": 3.0}, 1500), ({"durable_seconds": 0.001}, 1)])
def test_wait_is_never_endless(given: Any, milliseconds: int) -> None:
    settings = Settings.load(**given)
    assert DurabilityWait(settings, "fsync").commands[0] == ("WAITAOF", 1, 0, milliseconds)
    assert DurabilityWait(settings, "fsync").probe[0] == ("WAITAOF", 1, 0, 1)


def test_setting_is_the_level_unless_one_is_given() -> None:
    settings = Settings.load(durability="fsync")
    assert DurabilityWait(settings, None).level == "fsync"
    assert [DurabilityWait(settings, level).level for level in LEVELS] == ["memory", "fsync", "replicated"]
    with pytest.raises(ConfigurationError, match=r"^durability: expected one of memory, fsync, replicated, got ''$"):
        DurabilityWait(settings, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "replies", "met"),
    [
        ("memory", [], True),
        ("fsync", [[1, 0], ALWAYS], True),
        ("fsync", [[0, 3], ALWAYS], False),
        ("fsync", [[1, 0], EVERYSEC], False),
        ("fsync", [[1, 0], REFUSED], False),
        ("fsync", [REFUSED, ALWAYS], False),
        ("replicated", [[1, 0], 1, ALWAYS], True),
        ("replicated", [[1, 0], 2, ALWAYS], True),
        ("replicated", [[1, 1], 0, ALWAYS], False),
        ("replicated", [[0, 0], 1, ALWAYS], False),
        ("replicated", [[1, 0], 1, EVERYSEC], False),
        ("replicated", [[1, 0], REFUSED, ALWAYS], False),
    ],
)
def test_level_is_met_when_everything_it_needs_is(level: Durability, replies: Any, met: bool) -> None:
    assert wait(level).is_met(replies) is met


@pytest.mark.parametrize(
    ("level", "replies", "reached", "text"),
    [
        ("fsync", [[0, 2], ALWAYS], (0, 2), "within 1500 ms it reached 0 of 1 disk; sending it"),
        ("replicated", [[1, 2], 0, ALWAYS], (1, 0), "it reached 1 of 1 disk and 0 replicas; sending it"),
        ("replicated", [[0, 0], 2, EVERYSEC], (0, 2), "0 of 1 disk and 2 replicas (it takes appendfsync always, and"),
        ("replicated", [[1, 0], REFUSED, ALWAYS], (1, 0), "1 of 1 disk and 0 replicas (no permissions); sending it"),
        ("fsync", [REFUSED, ALWAYS], (0, 0), "0 of 1 disk (no permissions (it takes Redis 7.2 or later"),
    ],
)
def test_shortfall_names_the_durability_that_was_reached(
    level: Durability, replies: Any, reached: Any, text: str
) -> None:
    error = wait(level).shortfall(replies, ID)
    assert str(error).startswith(f"command {ID} is queued, but not as durably as asked ({level}): within 1500 ms")
    assert text in str(error)
    assert (error.command_id, error.wanted, error.milliseconds) == (ID, level, 1500)
    assert (error.numlocal, error.numreplicas) == reached


def test_shortfall_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(wait("fsync").shortfall([[0, 0], ALWAYS], ID)))
    assert (type(error), error.command_id, error.wanted) == (NotDurable, ID, "fsync")


REFUSALS = [
    ("fsync", [REFUSED, ALWAYS], ConfigurationError, "no permissions (it takes Redis 7.2 or later, or Valkey, as"),
    ("fsync", [[1, 0], EVERYSEC], ConfigurationError, "it takes appendfsync always, and it is everysec"),
    ("fsync", [[1, 0], REFUSED], ConfigurationError, "cannot be read (no permissions); LEVELQ_APPENDFSYNC=always"),
    ("replicated", [[1, 0], 1, EVERYSEC], ConfigurationError, "it takes appendfsync always, and it is everysec"),
    ("replicated", [[1, 0], 0, ALWAYS], QueueUnavailable, "durability replicated, and no replica is connected"),
]


@pytest.mark.parametrize(("level", "replies", "error", "text"), REFUSALS)
def test_level_that_a_server_cannot_give_is_refused_without_the_password(
    level: Durability, replies: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        wait(level).check(replies)
    assert str(raised.value).startswith("LEVELQ_REDIS_URL redis://app:***@queue.example:6379/0: nothing was queued: ")
    assert text in str(raised.value)


def test_appendfsync_that_cannot_be_read_is_taken_from_the_setting() -> None:
    waiter = wait("fsync", appendfsync="always")
    waiter.check([[1, 0], REFUSED])
    assert waiter.is_met([[1, 0], REFUSED])
    with pytest.raises(ConfigurationError, match="and it is everysec"):
        waiter.check([[1, 0], EVERYSEC])


def test_recorder_counts_a_less_durable_command_as_possibly_lost(tmp_path: Path) -> None:
    """Not false: that would mean that it certainly was not queued."""
    errors = [None, NotDurable(), SendUnknown(), LaneFull()]
    commands = [LevelUp(user_id=1, specialization="PLAYER") for _ in errors]
    with Recorder(tmp_path / "sends") as recorder:
        recorder.sent(commands, errors)
    lines = [json.loads(line) for line in (tmp_path / "sends").read_text().splitlines()]
    assert [line["acknowledged"] for line in lines] == [True, None, None, False]
