"""The restore: claims are blocked until what Redis lost of the outbox is back; and `levelq rebuild`."""

from collections.abc import Callable
from typing import Any

import pytest

from levelq_core import Settings
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.restore import OutboxRestore
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import apply
from tests.support.outbox import OutboxSystem, level_up
from tests.support.system import PLAYER


def wiped(outbox: OutboxSystem, *numbers: int) -> None:
    """These commands were pushed, and then Redis lost everything."""
    outbox.send(*numbers)
    assert outbox.relay().poll() == len(numbers)
    outbox.redis.flushall()


def restored(outbox: OutboxSystem) -> bool:
    return bool(outbox.redis.exists(KEYS.of(PLAYER, "filled")))


def test_what_redis_lost_goes_in_before_anything_new(outbox: OutboxSystem, caplog: pytest.LogCaptureFixture) -> None:
    wiped(outbox, 1, 2, 3)
    outbox.send(4)
    outbox.push(level_up(100))
    outbox.run_drains(PLAYER)
    outbox.relay().poll()
    outbox.drain()
    assert outbox.decided() == [1, 2, 3, 100, 4]
    assert outbox.status().waiting == 0
    assert caplog.messages == [
        "PLAYER:1:0: Redis holds nothing of this partition: 3 outbox commands were put back; "
        "commands sent by other ways and not yet applied are lost"
    ]


def test_nothing_is_claimed_until_the_partition_is_restored(outbox: OutboxSystem) -> None:
    outbox.push(level_up(100))
    claim = outbox.claim()
    assert (claim.blocked, claim.lanes, claim.retired) == (True, [], False)
    assert outbox.ensure_restored()
    assert len(outbox.claim().lanes) == 1


def test_a_new_installation_is_restored_without_a_log_line(
    outbox: OutboxSystem, caplog: pytest.LogCaptureFixture
) -> None:
    apply(outbox.engine, [level_up(1)])  # a direct call, before Redis was ever used
    outbox.push(level_up(2))
    outbox.drain()
    assert (outbox.decided(), caplog.messages) == ([1, 2], [])


def test_a_wiped_redis_is_reported_although_the_outbox_had_nothing(
    outbox: OutboxSystem, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.push(level_up(1))
    outbox.drain()
    outbox.redis.flushall()
    assert outbox.relay().poll() == 0
    assert "0 outbox commands were put back" in caplog.text


def test_a_drain_waits_while_a_relay_has_the_lease(outbox: OutboxSystem) -> None:
    wiped(outbox, 1)
    outbox.relay().poll()
    outbox.redis.delete(KEYS.of(PLAYER, "filled"))
    assert not outbox.ensure_restored()
    assert outbox.claim().blocked


class Interrupted(Exception):
    pass


def before_step(restore: OutboxRestore, number: int, what: Callable[[], object]) -> None:
    """Call `what` before this step of the restore."""
    original = restore._lanes.restore
    steps = iter(range(100))

    def step(*args: Any, **options: Any) -> Any:
        if next(steps) == number:
            what()
        return original(*args, **options)

    restore._lanes.restore = step  # type: ignore[method-assign]


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("fault", ["crash", "flushall", "lease"])
def test_a_restore_broken_off_at_any_step_is_repeated(
    outbox: OutboxSystem, step: int, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("levelq_worker.relay.restore.CHUNK", 1)
    outbox.send(1, 2, 3)
    outbox.send(4, 5, user_id=2)
    outbox.relay().poll()

    def crash() -> None:
        raise Interrupted

    def flushall() -> None:
        outbox.redis.flushall()
        outbox.push(level_up(100))

    def steal() -> None:
        outbox.redis.set(KEYS.of(PLAYER, "relay"), "another relay's", px=1)

    flushall()
    restore = outbox.restore()
    before_step(restore, step, {"crash": crash, "flushall": flushall, "lease": steal}[fault])
    if fault == "crash":
        with pytest.raises(Interrupted):
            restore.ensure_restored(PLAYER)
    else:
        assert not restore.ensure_restored(PLAYER)
    assert outbox.claim().blocked
    until(outbox.ensure_restored, what="the lease to be free")
    assert (outbox.lane(1), outbox.lane(2)) == ([1, 2, 3, 100], [4, 5])
    assert outbox.status().waiting == 6
    outbox.drain()
    assert [n for n in outbox.decided() if n < 4] == [1, 2, 3]


def test_a_lane_is_put_back_whole_however_long(outbox: OutboxSystem) -> None:
    numbers = list(range(1, 6001))
    wiped(outbox, *numbers)
    outbox.push(level_up(100_000))
    assert outbox.ensure_restored()
    assert outbox.lane() == [*numbers, 100_000]
    assert outbox.status().waiting == 6001


@pytest.mark.parametrize("claimed", [True, False])
def test_a_partition_blocked_by_hand_is_restored_only_when_no_lane_is_claimed(
    outbox: OutboxSystem, claimed: bool
) -> None:
    outbox.send(1)
    relay = outbox.relay()
    relay.poll()
    if claimed:
        outbox.lanes.claim(PLAYER, "drain", "token", 100)
    outbox.redis.delete(KEYS.of(PLAYER, "filled"))
    relay.poll()
    assert restored(outbox) is not claimed
    assert outbox.lane() == [1]


def test_a_lane_of_another_type_does_not_stop_a_restore(outbox: OutboxSystem) -> None:
    wiped(outbox, 1)
    outbox.redis.set(KEYS.lane(PLAYER, 1), "another program's")
    assert outbox.ensure_restored()
    assert outbox.redis.get(KEYS.lane(PLAYER, 1)) == b"another program's"


def test_a_full_memory_does_not_stop_a_restore(outbox: OutboxSystem) -> None:
    wiped(outbox, 1, 2)
    outbox.redis.config_set("maxmemory", outbox.redis.info("memory")["used_memory"] + 1024)
    try:
        assert outbox.ensure_restored()
    finally:
        outbox.redis.config_set("maxmemory", 0)
    assert outbox.lane() == [1, 2]


def test_claims_stay_blocked_while_the_database_is_down(outbox: OutboxSystem, settings: Settings) -> None:
    outbox.push(level_up(1))
    down = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none", "slice_seconds": 0.1})
    worker = Runtime(down)
    Drain(worker, PLAYER).run()
    worker.close()
    assert outbox.lane() == [1]
    outbox.drain()
    assert outbox.decided() == [1]


def test_rebuild_puts_back_what_a_lane_lost(outbox: OutboxSystem, levelq_here: Levelq) -> None:
    relay = outbox.relay()
    outbox.send(1, 2)
    outbox.send(3, user_id=2)
    relay.poll()
    outbox.lose_from_lane(1)
    outbox.push(level_up(100))
    code, out, _ = levelq_here("rebuild", "player")
    assert (code, out.split()) == (0, ["PLAYER:1:0", "2", "commands", "put", "back", "into", "1", "lane"])
    assert (outbox.lane(1), outbox.lane(2)) == ([1, 2, 100], [3])
    code, out, _ = levelq_here("rebuild")
    assert (code, out.count("0 commands put back into 0 lanes")) == (0, 3)
    assert outbox.lane(1) == [1, 2, 100]
    assert relay.poll() == 0
    outbox.drain()
    assert [n for n in outbox.decided() if n != 3] == [1, 2, 100]


@pytest.mark.usefixtures("outbox")
def test_rebuild_refuses_an_unknown_specialization(levelq_here: Levelq) -> None:
    code, _, err = levelq_here("rebuild", "WIZARD")
    assert (code, "expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'" in err) == (2, True)


def test_rebuild_gives_up_when_a_drain_keeps_its_lanes(
    outbox: OutboxSystem, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.push(level_up(1))
    outbox.lanes.claim(PLAYER, "drain", "token", 100)
    monkeypatch.setattr("levelq_worker.relay.rebuild._SPARE_SECONDS", -outbox.settings.claim_seconds)
    code, _, err = levelq_here("rebuild", "PLAYER")
    assert (code, "run `levelq rebuild` again" in err) == (2, True)
