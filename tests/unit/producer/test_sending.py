"""The plan of a send: validated whole, cut into windows, one answer for every command."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from levelq_core import (
    Command,
    ConfigurationError,
    InvalidCommand,
    LaneFull,
    LevelUp,
    Moved,
    NotDurable,
    PartitionFull,
    QueueUnavailable,
    SendUnknown,
    SetLevel,
    Settings,
    SyncLevels,
)
from levelq_core.domain.codec import FLAG_REPLY, encode
from levelq_core.errors import LevelqError
from levelq_core.keys import Partition
from levelq_core.lanes.protocol import PushAnswer
from levelq_core.lanes.shard_layout import Layout
from levelq_core.redis_client.cluster import NotConnected
from levelq_producer import sending
from levelq_producer.sending import Batches, Item, Plan

SETTINGS = Settings.load(redis_url="redis://app:s3cret@queue.example:6379/0", lane_limit=5, partition_limit=9)
LOST = RedisConnectionError("connection reset")


def up(user_id: int, specialization: str = "PLAYER", xp: int = 0) -> LevelUp:
    return LevelUp(user_id=user_id, specialization=specialization, xp_gained=xp)


def plan(*commands: Command, reply: bool = False, settings: Settings = SETTINGS) -> Plan:
    return Plan(settings, commands, reply=reply)


@pytest.fixture
def windows_of_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "WINDOW", 3)


def batches_of(plan_: Plan, window: Sequence[Item], shards: int = 1) -> Batches:
    return plan_.batches(window, dict.fromkeys(SETTINGS.tracks, Layout(1, shards)))


def settle(plan_: Plan, window: Sequence[Item], *answers: PushAnswer | RedisError) -> list[Partition]:
    return plan_.settle(window, batches_of(plan_, window), answers).wake


def errors(plan_: Plan) -> list[type[LevelqError] | None]:
    return [None if item.error is None else type(item.error) for item in plan_.items]


def test_the_payload_is_the_encoded_command_with_its_flag() -> None:
    command = up(1)
    for reply in (False, True):
        (item,) = plan(command, reply=reply).items
        assert item.payload == encode(command, reply=reply)
        assert item.payload[3] & FLAG_REPLY == reply
        assert item.command_id == command.command_id


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (up(1, "CHEF"), "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'CHEF'"),
        (
            LevelUp(user_id=1, specialization="PLAYER", theory_hours=5),
            "theory_hours: PLAYER does not track hours, expected 0, got 5",
        ),
        (
            SetLevel(user_id=1, specialization="PLAYER", new_level=999),
            "new_level: expected 1 to 8 for PLAYER, got 999",
        ),
        (SetLevel(user_id=1, specialization="COACH", new_level=0), "new_level: expected 1 to 8 for COACH, got 0"),
        ({"user_id": 1}, "command: expected LevelUp, SetLevel, SyncLevels, Adjust or Reset, got {'user_id': 1}"),
        (None, "command: expected LevelUp, SetLevel, SyncLevels, Adjust or Reset, got None"),
    ],
)
def test_what_can_never_be_applied_is_told_before_anything_is_sent(bad: Command, message: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        plan(up(1), bad, up(2))
    assert str(caught.value) == message


def test_a_payload_over_the_limit_is_refused() -> None:
    settings = Settings.load(payload_limit=128)
    fits = LevelUp(user_id=1, specialization="PLAYER", reason="x" * 59)
    assert len(plan(fits, settings=settings).items[0].payload) == 128
    with pytest.raises(InvalidCommand, match=r"^command: expected at most 128 bytes, got 129$"):
        plan(fits.model_copy(update={"reason": "x" * 60}), settings=settings)


def test_a_level_column_narrower_than_the_catalog_is_the_workers_to_see() -> None:
    assert plan(up(2**63 - 1)).items


def test_batches_are_by_partition_and_lane_in_order() -> None:
    commands = [up(1, xp=1), up(2, "COACH"), up(1, "COACH"), up(1, xp=2), up(2, xp=3)]
    made = plan(*commands)
    (window,) = made.windows()
    payloads = [encode(command) for command in commands]
    assert batches_of(made, window) == [
        (Partition("PLAYER"), [(1, [payloads[0], payloads[3]]), (2, [payloads[4]])]),
        (Partition("COACH"), [(2, [payloads[1]]), (1, [payloads[2]])]),
    ]


def test_shards_are_partitions_of_their_own() -> None:
    made = plan(*map(up, range(1, 50)))
    (window,) = made.windows()
    batches = batches_of(made, window, shards=4)
    assert {partition.shard for partition, _ in batches} == {0, 1, 2, 3}
    for partition, users in batches:
        assert all(Partition.of("PLAYER", user_id, 4) == partition for user_id, _ in users)


def test_nothing_to_send_needs_no_window() -> None:
    assert list(plan().windows()) == []


@pytest.mark.usefixtures("windows_of_3")
def test_a_long_send_is_cut_into_windows() -> None:
    made = plan(*map(up, range(1, 9)))
    assert [[item.lane.user_id for item in window] for window in made.windows()] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert errors(made) == [None] * 8


def test_who_asked_to_be_woken_is_told() -> None:
    made = plan(up(1), up(1, "COACH"), up(1, "INTERNSHIP"))
    (window,) = made.windows()
    full = [(1, "")]
    woken = settle(made, window, PushAnswer(True, full), PushAnswer(False, full), PushAnswer(True, full))
    assert woken == [Partition("PLAYER"), Partition("INTERNSHIP")]
    assert errors(made) == [None] * 3


def test_a_lane_takes_its_first_commands_and_refuses_the_rest() -> None:
    made = plan(up(1), up(2), up(1), up(1), up(2))
    (window,) = made.windows()
    settle(made, window, PushAnswer(True, [(1, "lane"), (2, "")]))
    assert errors(made) == [None, None, LaneFull, LaneFull, None]
    assert str(made.items[2].error) == "lane PLAYER:1: 5 commands wait already (LEVELQ_LANE_LIMIT)"


def test_a_full_partition_refuses_lane_by_lane() -> None:
    made = plan(up(1), up(2), up(2), up(3))
    (window,) = made.windows()
    settle(made, window, PushAnswer(False, [(1, ""), (1, "partition"), (0, "partition")]))
    assert errors(made) == [None, None, PartitionFull, PartitionFull]
    assert str(made.items[3].error) == "partition PLAYER:1:0: 9 commands wait already (LEVELQ_PARTITION_LIMIT)"


def test_a_lane_key_that_is_no_list_is_named() -> None:
    made = plan(up(1), up(2))
    (window,) = made.windows()
    settle(made, window, PushAnswer(False, [(0, "type"), (1, "")]))
    assert errors(made) == [QueueUnavailable, None]
    assert str(made.items[0].error) == "levelq:{PLAYER:1:0}:lane:1 holds something that is not a list"


@pytest.mark.usefixtures("windows_of_3")
def test_once_a_lane_refused_its_later_commands_are_refused_in_later_windows() -> None:
    made = plan(up(1), up(1), up(2), up(1), up(2), up(1, "COACH"), up(1), up(1), up(1), up(2))
    pushed = []
    for window in made.windows():
        pushed.append([item.lane for item in window])
        batches = batches_of(made, window)
        answers = [PushAnswer(False, [(len(entries), "") for _, entries in users]) for _, users in batches]
        if len(pushed) == 1:
            answers = [PushAnswer(False, [(1, "lane"), (1, "")])]
        made.settle(window, batches, answers)
    player, other, coach = made.items[0].lane, made.items[2].lane, made.items[5].lane
    assert pushed == [[player, player, other], [other, coach], [other]]  # a window of refused ones is not sent
    refused = [item.error is not None for item in made.items]
    assert refused == [False, True, False, True, False, False, True, True, True, False]
    assert errors(made)[-3:] == [LaneFull, LaneFull, None]


def test_a_closed_partition_says_so_and_the_others_go_on() -> None:
    made = plan(up(1), up(2), up(1, "COACH"))
    (window,) = made.windows()
    settled = made.settle(
        window, batches_of(made, window), [PushAnswer(False, [], moved=True), PushAnswer(True, [(1, "")])]
    )
    assert settled == ([Partition("COACH")], made.items[:2])
    assert errors(made) == [Moved, Moved, None]
    assert str(made.items[0].error) == "partition PLAYER:1:0 was closed: the number of shards changed"


def test_what_has_moved_is_pushed_again_to_where_it_is_now() -> None:
    made = plan(up(1), up(1), up(2, "COACH"))
    (window,) = made.windows()
    moved = made.settle(window, batches_of(made, window), [PushAnswer(False, [], moved=True), LOST]).moved
    batches = made.batches(moved, {"PLAYER": Layout(2, 1)})
    assert [(partition, len(users)) for partition, users in batches] == [(Partition("PLAYER", 2), 1)]
    assert made.settle(moved, batches, [PushAnswer(False, [(2, "")])]).moved == []
    assert errors(made) == [None, None, SendUnknown]


@pytest.mark.usefixtures("windows_of_3")
def test_where_nobody_says_where_to_the_lane_is_refused_from_then_on() -> None:
    made = plan(up(1), up(2), up(3), up(1), up(4))
    windows = made.windows()
    first = next(windows)
    made.refuse(made.settle(first, batches_of(made, first), [PushAnswer(False, [], moved=True)]).moved)
    assert [item.lane.user_id for item in next(windows)] == [4]
    assert errors(made) == [Moved] * 4 + [None]


def test_one_server_that_cannot_be_reached_is_not_unknown_and_another_may_have_taken_its_part() -> None:
    made = plan(up(1), up(1, "COACH"))
    (window,) = made.windows()
    settle(made, window, NotConnected("refused"), PushAnswer(False, [(1, "")]))
    assert errors(made) == [QueueUnavailable, None]


def test_a_script_that_met_a_slot_on_its_way_may_have_done_something() -> None:
    made = plan(up(1))
    (window,) = made.windows()
    settle(made, window, ResponseError("Script attempted to access a non local key in a cluster node"))
    assert errors(made) == [SendUnknown]


@pytest.mark.usefixtures("windows_of_3")
def test_a_refusal_by_redis_is_of_that_partition_and_hides_the_password() -> None:
    made = plan(up(1), up(1, "COACH"), up(2), up(1), up(3))
    windows = made.windows()
    settle(made, next(windows), ResponseError("OOM command not allowed"), PushAnswer(True, [(1, "")]))
    second = next(windows)
    assert [item.lane.user_id for item in second] == [3]  # a lane that was not asked yet may try
    settle(made, second, PushAnswer(True, [(1, "")]))
    assert errors(made) == [QueueUnavailable, None, QueueUnavailable, QueueUnavailable, None]
    message = str(made.items[0].error)
    assert message == (
        "LEVELQ_REDIS_URL redis://app:***@queue.example:6379/0: refused, nothing was queued: OOM command not allowed"
    )


@pytest.mark.usefixtures("windows_of_3")
def test_without_a_connection_nothing_was_sent() -> None:
    made = plan(*map(up, range(1, 8)))
    windows = made.windows()
    first = next(windows)
    settle(made, first, PushAnswer(True, [(1, "")] * 3))
    made.unsent(next(windows), LOST)
    assert list(windows) == []
    assert errors(made) == [None] * 3 + [QueueUnavailable] * 4
    assert str(made.items[3].error) == "LEVELQ_REDIS_URL redis://app:***@queue.example:6379/0: connection reset"


@pytest.mark.usefixtures("windows_of_3")
def test_a_connection_lost_midway_leaves_the_window_unknown_and_the_rest_unsent() -> None:
    made = plan(*map(up, range(1, 9)))
    windows = made.windows()
    settle(made, next(windows), PushAnswer(True, [(1, "")] * 3))
    settle(made, next(windows), LOST)
    assert list(windows) == []
    assert errors(made) == [None] * 3 + [SendUnknown] * 3 + [QueueUnavailable] * 2
    message = str(made.items[3].error)
    assert "it may be queued: sending it again with the same id is safe" in message
    assert "s3cret" not in message
    assert "it may be queued" not in str(made.items[6].error)


@pytest.mark.usefixtures("windows_of_3")
def test_a_lane_refused_before_the_loss_is_not_unknown() -> None:
    made = plan(up(1), up(1), up(2), up(1), up(2), up(3))
    windows = made.windows()
    settle(made, next(windows), PushAnswer(True, [(1, "lane"), (1, "")]))
    settle(made, next(windows), LOST)
    assert errors(made) == [None, LaneFull, None, LaneFull, SendUnknown, SendUnknown]


@pytest.mark.usefixtures("windows_of_3")
def test_what_is_not_as_durable_as_asked_is_queued_and_the_rest_goes_on() -> None:
    made = Plan(SETTINGS, map(up, (1, 2, 2, 3)), reply=False, durability="fsync")
    windows = made.windows()
    first = next(windows)
    settle(made, first, PushAnswer(True, [(1, ""), (1, "lane")]))
    assert not made.confirm(first, [[[1, 0], {"appendfsync": "always"}], [[0, 0], {"appendfsync": "always"}]])
    second = next(windows)
    settle(made, second, PushAnswer(True, [(1, "")]))
    assert made.confirm(second, [[[1, 0], {"appendfsync": "always"}]])
    assert errors(made) == [NotDurable, NotDurable, LaneFull, None]
    assert [getattr(item.error, "command_id", None) for item in made.items[:2]] == [i.command_id for i in first[:2]]


@pytest.mark.usefixtures("windows_of_3")
def test_a_durability_that_is_not_to_be_had_leaves_all_that_follows_unsent() -> None:
    made = Plan(SETTINGS, map(up, range(1, 5)), reply=False, durability="fsync")
    windows = made.windows()
    refusal = ConfigurationError("it is everysec")
    made.unsent(next(windows), refusal)
    assert list(windows) == []
    assert all(item.error is refusal for item in made.items)


def test_a_sync_and_a_set_are_planned_like_a_level_up() -> None:
    made = plan(SyncLevels(user_id=1, specialization="coach"), SetLevel(user_id=1, specialization="coach", new_level=8))
    assert [item.lane for item in made.items] == [("COACH", 1)] * 2
