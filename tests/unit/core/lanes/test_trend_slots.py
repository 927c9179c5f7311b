"""The slots of the trends as Redis keeps them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq_core.domain.lag_histogram import MOST_MS, bucket_of
from levelq_core.lanes.trend_slots import MOST_BYTES, Slot, is_slot

counts = st.integers(0, 10**15 - 1)
buckets = st.integers(0, bucket_of(MOST_MS))
slots = st.builds(
    Slot, counts, counts, counts, counts, st.dictionaries(buckets, counts), st.none() | counts, st.none() | counts
)


def text(slot: Slot) -> bytes:
    """As trend.lua writes it."""
    figures = slot.figures()
    return " ".join(f"{name}={number}" for name, number in zip(figures[::2], figures[1::2], strict=True)).encode()


@given(slots)
def test_written_slot_is_read(slot: Slot) -> None:
    if len(text(slot)) <= MOST_BYTES:
        assert Slot.read(text(slot)) == slot


def test_slot_with_every_bucket_of_a_busy_day_is_within_the_limit() -> None:
    every = dict.fromkeys(range(bucket_of(MOST_MS) + 1), 10**9)
    assert len(text(Slot(10**9, 10**9, 10**9, 10**9, every, 10**9, 10**9))) < MOST_BYTES


@pytest.mark.parametrize(
    "raw",
    [b"", b"bad", b"applied", b"applied=-1", b"applied=1.5", b"applied=1  rejected=2", b"\xff=1", b"lag9999=1"],
    ids=repr,
)
def test_text_of_another_program_is_no_slot(raw: bytes) -> None:
    assert Slot.read(raw) is None
    assert not is_slot(b"20:1764489600", raw)


@pytest.mark.parametrize("name", [b"7", b"20", b"20:", b"20:x", b"a:20:1", b"20:1\n"], ids=repr)
def test_name_of_another_program_is_no_slot(name: bytes) -> None:
    assert not is_slot(name, b"applied=1")


def test_figures_of_a_newer_worker_are_ignored() -> None:
    assert Slot.read(b"applied=1 lag999=1 lags=5 later=2 mode7=3") == Slot(applied=1)
