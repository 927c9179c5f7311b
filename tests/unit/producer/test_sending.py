"""A send without a server: commands are validated and encoded, grouped by lane, and each gets its answer."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

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
from levelq_core.domain import codec
from levelq_core.errors import LevelqError
from levelq_core.keys import Partition
from levelq_core.lanes.protocol import PushAnswer, PushError
from levelq_core.lanes.shard_layout import Layout
from levelq_core.redis_client.cluster import NotConnected
from levelq_core.settings import Durability
from levelq_producer.durability import DurabilityWait
from levelq_producer.handle_base import HandleBase
from levelq_producer.sending import PartitionBatch, SentCommand, Settled, Settlement, encode, group_by_lane

SETTINGS = Settings.load(redis_url="redis://app:s3cret@queue.example:6379/0", lane_limit=5, partition_limit=9)
ADDRESS = "LEVELQ_REDIS_URL redis://app:***@queue.example:6379/0"
PLAYER, COACH, INTERNSHIP = map(Partition, ("PLAYER", "COACH", "INTERNSHIP"))
LAYOUTS = dict.fromkeys(SETTINGS.tracks, Layout())
LOST = RedisConnectionError("connection reset")
MOVED = PushAnswer(False, [], moved=True)


def up(user_id: int, specialization: str = "PLAYER", **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization=specialization, **fields)


def took(*lanes: int | str, wake: bool = False, then: Sequence[Any] = ()) -> PushAnswer:
    """took(2, "", 1, "lane"): two commands of the first lane and all of them; one of the second, which is full."""
    pairs: Any = list(zip(lanes[::2], lanes[1::2], strict=True))
    return PushAnswer(wake, pairs, durability_replies=list(then))


def handle(command: Command) -> SentCommand:
    return HandleBase(None, command.command_id, False, command, encode(SETTINGS, command, reply=False))


def sent(lanes: str) -> list[SentCommand]:
    """A command for each lane: "1 1 C2" is two for user 1 on PLAYER and one for user 2 on COACH."""
    names = {"C": "COACH", "I": "INTERNSHIP"}
    return [handle(up(int(lane.lstrip("CI")), names.get(lane[0], "PLAYER"))) for lane in lanes.split()]


def lanes_of(commands: Sequence[SentCommand]) -> str:
    return " ".join(f"{one.specialization[0].removeprefix('P')}{one.user_id}" for one in commands)


def settlement(durability: Durability = "memory") -> Settlement:
    return Settlement(SETTINGS, DurabilityWait(SETTINGS, durability))


def push(to: Settlement, window: Sequence[SentCommand], *answers: PushAnswer | PushError) -> Settled:
    return to.settle(group_by_lane(window, LAYOUTS), answers)


def errors(commands: Sequence[SentCommand]) -> list[type[LevelqError] | None]:
    return [None if one.error is None else type(one.error) for one in commands]


# Encode


@pytest.mark.parametrize("reply", [False, True])
def test_payload_is_the_encoded_command_with_its_flag(reply: bool) -> None:
    command = up(2**63 - 1)
    payload = encode(SETTINGS, command, reply=reply)
    assert payload == codec.encode(command, reply=reply)
    assert payload[3] & codec.FLAG_REPLY == reply


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (up(1, "CHEF"), "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'CHEF'"),
        (up(1, theory_hours=5), "theory_hours: PLAYER does not track hours, expected 0, got 5"),
        (SetLevel(user_id=1, specialization="PLAYER", new_level=999), "new_level: expected 1 to 8 for PLAYER, got 999"),
        (SetLevel(user_id=1, specialization="COACH", new_level=0), "new_level: expected 1 to 8 for COACH, got 0"),
        ({"user_id": 1}, "command: expected LevelUp, SetLevel, SyncLevels, Adjust or Reset, got {'user_id': 1}"),
        (None, "command: expected LevelUp, SetLevel, SyncLevels, Adjust or Reset, got None"),
    ],
)
def test_command_that_can_never_be_applied_is_refused(bad: Command, message: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        encode(SETTINGS, bad, reply=False)
    assert str(caught.value) == message


def test_payload_over_the_limit_is_refused() -> None:
    settings = Settings.load(payload_limit=128)
    assert len(encode(settings, up(1, reason="x" * 59), reply=False)) == 128
    with pytest.raises(InvalidCommand, match=r"^command: expected at most 128 bytes, got 129$"):
        encode(settings, up(1, reason="x" * 60), reply=False)


# Group by lane


def test_batches_are_by_partition_and_lane_in_order() -> None:
    one, two, three, four, five = window = sent("1 C2 C1 1 2")
    batches = group_by_lane(window, LAYOUTS)
    assert batches == [
        PartitionBatch(PLAYER, {1: [one, four], 2: [five]}),
        PartitionBatch(COACH, {2: [two], 1: [three]}),
    ]
    assert batches[0].entries() == (PLAYER, [(1, [one.payload, four.payload]), (2, [five.payload])])


def test_shards_are_partitions_of_their_own() -> None:
    batches = group_by_lane(sent(" ".join(map(str, range(1, 50)))), {"PLAYER": Layout(1, 4)})
    assert {batch.partition.shard for batch in batches} == {0, 1, 2, 3}
    for partition, users in batches:
        assert all(Partition.of("PLAYER", user_id, 4) == partition for user_id in users)


def test_commands_of_each_kind_are_grouped_alike() -> None:
    commands: list[Command] = [
        SyncLevels(user_id=1, specialization="coach"),
        SetLevel(user_id=1, specialization="coach", new_level=8),
    ]
    window = [handle(command) for command in commands]
    assert group_by_lane(window, LAYOUTS) == [PartitionBatch(COACH, {1: window})]


# Settle

# Windows, each with the lanes that are pushed if some are not, and the partitions' answers; then what becomes of each
# command; and the whole text of one error, by its index.
OOM = ResponseError("OOM command not allowed")
NON_LOCAL = ResponseError("Script attempted to access a non local key in a cluster node")
REFUSED = f"{ADDRESS}: refused, nothing was queued: OOM command not allowed"
SETTLED: dict[str, tuple[list[tuple[Any, ...]], list[Any], tuple[int, str]]] = {
    "full lane takes its first commands": (
        [("1 2 1 1 2", took(1, "lane", 2, ""))],
        [None, None, LaneFull, LaneFull, None],
        (2, "lane PLAYER:1: 5 commands wait already (LEVELQ_LANE_LIMIT)"),
    ),
    "full partition refuses lane by lane": (
        [("1 2 2 3", took(1, "", 1, "partition", 0, "partition"))],
        [None, None, PartitionFull, PartitionFull],
        (3, "partition PLAYER:1:0: 9 commands wait already (LEVELQ_PARTITION_LIMIT)"),
    ),
    "lane's key of another type is named": (
        [("1 2", took(0, "type", 1, ""))],
        [QueueUnavailable, None],
        (0, "levelq:{PLAYER:1:0}:lane:1 holds something that is not a list"),
    ),
    "lane that refused one refuses all that follow": (
        [
            ("1 1 2", took(1, "lane", 1, "")),
            ("1 2 C1", ("2 C1", took(1, ""), took(1, ""))),
            ("1 1 1", ("",)),
            ("2", took(1, "")),
        ],
        [None, LaneFull, None, LaneFull, None, None, LaneFull, LaneFull, LaneFull, None],
        (8, "lane PLAYER:1: 5 commands wait already (LEVELQ_LANE_LIMIT)"),
    ),
    "closed partition, and the others go on": (
        [("1 2 C1", MOVED, took(1, "", wake=True))],
        [Moved, Moved, None],
        (0, "partition PLAYER:1:0 was closed: the number of shards changed"),
    ),
    "server that cannot be reached, and another that took its part": (
        [("1 C1", NotConnected("refused"), took(1, ""))],
        [QueueUnavailable, None],
        (0, f"{ADDRESS}: refused"),
    ),
    "script that stopped at a slot on its way is unknown": (
        [("1", NON_LOCAL)],
        [SendUnknown],
        (0, f"{ADDRESS}: {NON_LOCAL}; it may be queued: sending it again with the same id is safe"),
    ),
    "refusal by Redis is its partition's": (
        [("1 C1 2", OOM, took(1, "")), ("1 3", ("3", took(1, "")))],
        [QueueUnavailable, None, QueueUnavailable, QueueUnavailable, None],
        (0, REFUSED),
    ),
    "connection lost midway leaves its window unknown": (
        [("1 2 3", took(1, "", 1, "", 1, "")), ("4 5 6", LOST), ("7 8", ("",))],
        [None] * 3 + [SendUnknown] * 3 + [QueueUnavailable] * 2,
        (3, f"{ADDRESS}: connection reset; it may be queued: sending it again with the same id is safe"),
    ),
    "connection lost midway leaves the next window unsent": (
        [("1 2", LOST), ("3 4", ("",))],
        [SendUnknown] * 2 + [QueueUnavailable] * 2,
        (2, f"{ADDRESS}: connection reset"),
    ),
    "lane refused before the loss is not unknown": (
        [("1 1 2", took(1, "lane", 1, "")), ("1 2 3", ("2 3", LOST))],
        [None, LaneFull, None, LaneFull, SendUnknown, SendUnknown],
        (3, "lane PLAYER:1: 5 commands wait already (LEVELQ_LANE_LIMIT)"),
    ),
}


@pytest.mark.parametrize("case", SETTLED)
def test_each_command_of_a_call_gets_its_answer(case: str) -> None:
    windows, expected, (index, message) = SETTLED[case]
    call = settlement()
    commands: list[SentCommand] = []
    for lanes, *pushed in windows:
        window = sent(lanes)
        commands += window
        open_lanes, *answers = pushed[0] if isinstance(pushed[0], tuple) else (lanes, *pushed)
        left = call.still_open(window)
        assert lanes_of(left) == open_lanes
        push(call, left, *answers)
    assert errors(commands) == expected
    assert str(commands[index].error) == message


def test_partitions_that_ask_for_it_are_woken() -> None:
    window = sent("1 C1 I1")
    settled = push(settlement(), window, took(1, "", wake=True), took(1, ""), took(1, "", wake=True))
    assert settled == Settled([PLAYER, INTERNSHIP], [], durable=True)
    assert errors(window) == [None] * 3


def test_moved_commands_are_pushed_again_to_where_their_lanes_are_now() -> None:
    call, window = settlement(), sent("1 1 C2")
    settled = push(call, window, MOVED, LOST)
    assert settled == Settled([], window[:2], durable=True)
    batches = group_by_lane(settled.moved, {"PLAYER": Layout(2, 1)})
    assert batches == [PartitionBatch(Partition("PLAYER", 2), {1: window[:2]})]
    assert call.settle(batches, [took(2, "")]).moved == []
    assert errors(window) == [None, None, SendUnknown]


def test_lane_whose_move_cannot_be_followed_is_refused_from_then_on() -> None:
    call, trip, window, following = settlement(), settlement(), sent("1 2 3"), sent("1 4")
    push(trip, window, MOVED)
    assert trip.moved(window) == window
    call.note(window, trip)
    assert lanes_of(call.still_open(following)) == "4"
    assert errors([*window, *following]) == [Moved] * 4 + [None]


@pytest.mark.parametrize(
    ("error", "expected"), [(LOST, QueueUnavailable), (ConfigurationError("it is everysec"), ConfigurationError)]
)
def test_without_a_connection_or_the_durability_all_that_follows_is_unsent(error: Any, expected: type) -> None:
    call, first, second, third = settlement(), sent("1 2 3"), sent("4 5 6"), sent("7")
    push(call, first, took(1, "", 1, "", 1, "", wake=True))
    call.refuse_all(second, error)
    assert call.still_open(third) == []
    assert errors([*first, *second, *third]) == [None] * 3 + [expected] * 4
    assert str(second[0].error) == (str(error) if expected is ConfigurationError else f"{ADDRESS}: connection reset")


def test_specialization_whose_layout_cannot_be_read_is_refused_from_then_on() -> None:
    call, window, following = settlement(), sent("1 C1 2"), sent("1 C1")
    refusal = ConfigurationError("levelq:shards: unreadable")
    assert lanes_of(call.refuse_specializations(window, {"PLAYER": refusal})) == "C1"
    assert lanes_of(call.still_open(following)) == "C1"
    assert [one.error for one in [*window, *following]] == [refusal, None, refusal, refusal, None]


ALWAYS = {"appendfsync": "always"}
ON_DISK, NOT_ON_DISK = [[1, 0], ALWAYS], [[0, 0], ALWAYS]


def test_less_durable_commands_are_queued_and_the_rest_goes_on() -> None:
    call, window, following = settlement("fsync"), sent("1 2 2"), sent("3")
    assert not push(call, window, took(1, "", 1, "lane", then=NOT_ON_DISK)).durable
    assert push(call, following, took(1, "", then=ON_DISK)).durable
    assert errors([*window, *following]) == [NotDurable, NotDurable, LaneFull, None]
    assert [getattr(one.error, "command_id", None) for one in window[:2]] == [one.command_id for one in window[:2]]


def test_shortfall_of_one_server_does_not_change_what_another_has_confirmed() -> None:
    window = sent("1 C1")
    assert not push(settlement("fsync"), window, took(1, "", then=ON_DISK), took(1, "", then=NOT_ON_DISK)).durable
    assert errors(window) == [None, NotDurable]
