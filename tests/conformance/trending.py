"""trend.lua: what all workers did, summed in slots of time."""

from typing import Any

import pytest

from levelq_core.lanes.trend_slots import DAY, HOUR, MOST_BYTES, Series, Slot, read
from tests.conformance.kit import Bench

BEGIN = 1_764_489_600  # of a slot of both series, in Unix time


def slot(b: Bench, series: Series = HOUR, begins: int = BEGIN) -> Slot | None:
    """What a slot holds, read when it has just ended."""
    found = read(b.redis, b.lanes.keys, series, 1000 * (begins + series.slot_seconds))
    assert found.begins[-1] == begins
    return found.slots[-1]


def add(b: Bench, seconds: float, **did: Any) -> bool:
    """Add to the slots at this time after BEGIN; whether what waits is asked for."""
    return b.lanes.add_to_trends(Slot(**did), round(1000 * (BEGIN + seconds)))


def fields(b: Bench) -> set[str]:
    return {name.decode() for name in b.redis.hkeys(b.lanes.keys.trends)}


class Trending:
    """Promises of trend.lua."""

    def test_workers_are_summed_and_the_largest_sample_stays(self, b: Bench) -> None:
        assert slot(b) is None
        assert add(b, 1, applied=3, commands=5, batches=1, lags={17: 2, 30: 1})
        assert add(b, 2, applied=4, rejected=1, commands=5, batches=2, lags={17: 1})
        assert not add(b, 3, waiting=7, parked=0)
        assert not add(b, 4, waiting=5, parked=2)
        expected = Slot(7, 1, 10, 3, {17: 3, 30: 1}, waiting=7, parked=2)
        assert slot(b) == slot(b, DAY) == expected
        assert b.redis.hget(b.lanes.keys.trends, f"20:{BEGIN}") == (
            b"applied=7 batches=3 commands=10 lag17=3 lag30=1 parked=2 rejected=1 waiting=7"
        )

    def test_slot_ends_at_its_border(self, b: Bench) -> None:
        for seconds in (-0.001, 0, 19.999, 20, 600):
            assert add(b, seconds, applied=1) == (seconds != 19.999)
            assert not add(b, seconds, waiting=1)
        assert [getattr(slot(b, HOUR, BEGIN + at), "applied", None) for at in (-20, 0, 20, 40)] == [1, 2, 1, None]
        assert [getattr(slot(b, DAY, BEGIN + at), "applied", None) for at in (-600, 0, 600)] == [1, 3, 1]

    def test_worker_that_is_late_adds_to_its_own_slot_and_the_newer_one_stays(self, b: Bench) -> None:
        add(b, 20, applied=1)
        add(b, 19.9, applied=2)
        assert [getattr(slot(b, HOUR, BEGIN + at), "applied", None) for at in (0, 20)] == [2, 1]

    def test_slots_that_no_chart_shows_are_removed(self, b: Bench) -> None:
        add(b, 0, applied=1)
        add(b, 3600, applied=1)
        assert f"20:{BEGIN}" in fields(b)  # the oldest point of the hour
        add(b, 3620, applied=1)
        assert f"20:{BEGIN}" not in fields(b) and f"600:{BEGIN}" in fields(b)
        add(b, 600 * 145, applied=1)
        assert fields(b) == {f"{length}:{BEGIN + 600 * 145}" for length in (20, 600)} | {f"600:{BEGIN + 3600}"}

    def test_slots_after_the_clock_was_set_back_are_removed(self, b: Bench) -> None:
        add(b, 7200, applied=1)
        add(b, 0, applied=1)
        assert fields(b) == {f"20:{BEGIN}", f"600:{BEGIN}"}

    def test_trends_expire_when_no_worker_adds(self, b: Bench) -> None:
        add(b, 0)
        assert 600 * 144 < b.redis.ttl(b.lanes.keys.trends) <= 600 * 145
        assert slot(b) == Slot()  # a worker was there and did nothing

    @pytest.mark.parametrize(
        "content", [b"bad", b"\xff\x00", b"x=1 " * MOST_BYTES, b"applied=1e9", b"applied=" + b"9" * 16]
    )
    def test_what_another_program_left_is_replaced(self, b: Bench, content: bytes) -> None:
        key = b.lanes.keys.trends
        b.redis.hset(key, mapping={f"20:{BEGIN}": content, "7": content, f"20:{BEGIN - 20}": content})
        assert slot(b) is None and slot(b, HOUR, BEGIN - 20) is None
        add(b, 0, applied=2)
        assert slot(b) == Slot(applied=2)
        assert fields(b) == {f"20:{BEGIN}", f"600:{BEGIN}", f"20:{BEGIN - 20}"}

    def test_key_of_another_type_is_left_alone(self, b: Bench) -> None:
        b.redis.set(b.lanes.keys.trends, "of another type")
        assert not add(b, 0, applied=1)
        assert slot(b) is None
        assert b.redis.get(b.lanes.keys.trends) == b"of another type"
