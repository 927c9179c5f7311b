"""Layouts and their forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq_core.keys import Partition
from levelq_core.lanes.shard_layout import Layout

NUMBERS = st.integers(1, 9_999)


@given(NUMBERS, NUMBERS, st.sampled_from(["", ">", "<"]), NUMBERS)
def test_what_is_written_is_read(generation: int, shards: int, change: str, number: int) -> None:
    text = f"{generation}:{shards}" + (f"{change}{number}" if change else "")
    layout = Layout.read(text.encode())
    assert layout is not None
    assert str(layout) == text
    assert layout.steady is not bool(change)


@pytest.mark.parametrize("text", ["", "1", "1:", "1:0", "1:2>", "1:2<x", "1:2>3<4", " 1:2", "-1:2", "1:99999"])
def test_what_is_no_layout(text: str) -> None:
    assert Layout.read(text.encode()) is None


def test_the_forms_of_a_change() -> None:
    forms = [Layout(3, 4)]
    forms.append(forms[-1].begin_change(8))
    forms += [forms[-1].next_step, forms[-1].next_step.next_step]
    assert [str(form) for form in forms] == ["3:4", "3:4>8", "4:8<4", "4:8"]
    assert [form.steady for form in forms] == [True, False, False, True]


@given(st.integers(1, 2**63 - 1), NUMBERS, NUMBERS)
def test_a_user_is_in_one_partition_of_the_generation(user_id: int, generation: int, shards: int) -> None:
    layout = Layout(generation, shards)
    assert layout.partition("PLAYER", user_id) in layout.partitions("PLAYER")


def test_the_generation_before() -> None:
    assert Layout(2, 8, previous_shards=2).previous_partitions("COACH") == [
        Partition("COACH", 1, 0),
        Partition("COACH", 1, 1),
    ]
    assert Layout(2, 8).previous_partitions("COACH") == []
