"""How a batch's size follows the time of its transaction, against databases of known speed."""

from __future__ import annotations

import pytest

from levelq_worker.draining.batch_size import BatchSize

MOST, AIM = 5_000, 0.1


def after(size: BatchSize, batches: int, empty: float, each: float) -> list[float]:
    """Let it work with a database that takes so long for a transaction and for a command; each batch's seconds."""
    took = []
    for _ in range(batches):
        commands = size.commands
        took.append(empty + each * commands)
        size.took(commands, took[-1], empty)
    return took


def test_it_is_the_most_on_a_fast_database() -> None:
    size = BatchSize(MOST, AIM)
    after(size, 10, 0.002, 10e-6)
    assert size.commands == MOST


@pytest.mark.parametrize("each", [50e-6, 200e-6, 1e-3])
def test_it_keeps_to_its_time_on_a_slow_database(each: float) -> None:
    size = BatchSize(MOST, AIM)
    after(size, 50, 0.003, each)
    took = after(size, 1_000, 0.003, each)
    assert 0.9 * AIM <= min(took) <= max(took) <= 1.1 * AIM


def test_few_commands_in_a_batch_do_not_make_the_next_one_small() -> None:
    size = BatchSize(MOST, AIM)
    after(size, 10, 0.003, 10e-6)
    for commands in (1, 3, 100):
        size.took(commands, 0.003, 0.003)
    assert size.commands == MOST


@pytest.mark.parametrize("empty", [0.06, 0.4, 3.0])
def test_a_transaction_that_takes_long_whatever_it_holds_does_not_make_it_small(empty: float) -> None:
    size = BatchSize(MOST, AIM)
    after(size, 1_000, empty, 10e-6)
    assert size.commands == MOST


def test_a_single_slow_batch_is_soon_forgotten() -> None:
    size = BatchSize(MOST, AIM)
    after(size, 10, 0.003, 10e-6)
    size.took(MOST, 5.0, 0.003)
    assert size.commands == MOST * AIM / 5.0
    after(size, 7, 0.003, 10e-6)
    assert size.commands == MOST


def test_what_a_limit_ended_is_halved_down_to_one() -> None:
    size = BatchSize(MOST, AIM)
    size.too_much(3_000)
    assert size.commands == 1_500
    size.too_much(1)
    assert size.commands == 1


def test_a_batch_without_a_command_says_nothing() -> None:
    """Lanes whose heads are of a newer version are claimed and given back."""
    size = BatchSize(MOST, AIM)
    size.took(0, 1.0, 0.003)
    assert size.commands == MOST


@pytest.mark.parametrize("most", [1, 7])
def test_a_small_most_is_kept(most: int) -> None:
    size = BatchSize(most, AIM)
    size.too_much(1)
    assert size.commands == 1
    after(size, 10, 0.001, 1e-6)
    assert size.commands == most
