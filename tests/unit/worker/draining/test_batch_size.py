"""How a batch's size follows the time of its transaction, against databases of known speed."""

import pytest

from levelq_worker.draining.batch_size import BatchSize

MOST, AIM = 5_000, 0.1


@pytest.fixture
def size() -> BatchSize:
    return BatchSize(MOST, AIM)


def after(size: BatchSize, batches: int, empty: float, each: float) -> list[float]:
    """The seconds of each batch, on a database that takes so long for a transaction and for a command."""
    took = []
    for _ in range(batches):
        commands = size.commands
        took.append(empty + each * commands)
        size.adapt(commands, took[-1], empty)
    return took


def test_fast_database_gets_the_most(size: BatchSize) -> None:
    after(size, 10, 0.002, 10e-6)
    assert size.commands == MOST


@pytest.mark.parametrize("each", [50e-6, 200e-6, 1e-3])
def test_slow_database_gets_batches_of_the_aim(size: BatchSize, each: float) -> None:
    after(size, 50, 0.003, each)
    took = after(size, 1_000, 0.003, each)
    assert 0.9 * AIM <= min(took) <= max(took) <= 1.1 * AIM


def test_batch_of_few_commands_does_not_shrink_the_next(size: BatchSize) -> None:
    after(size, 10, 0.003, 10e-6)
    for commands in (1, 3, 100):
        size.adapt(commands, 0.003, 0.003)
    assert size.commands == MOST


@pytest.mark.parametrize("empty", [0.06, 0.4, 3.0])
def test_transaction_that_is_slow_when_empty_does_not_shrink_it(size: BatchSize, empty: float) -> None:
    after(size, 1_000, empty, 10e-6)
    assert size.commands == MOST


def test_single_slow_batch_is_soon_forgotten(size: BatchSize) -> None:
    after(size, 10, 0.003, 10e-6)
    size.adapt(MOST, 5.0, 0.003)
    assert size.commands == MOST * AIM / 5.0
    after(size, 7, 0.003, 10e-6)
    assert size.commands == MOST


def test_batch_that_a_limit_ended_is_halved_down_to_one(size: BatchSize) -> None:
    for commands, half in ((3_000, 1_500), (1, 1)):
        size.halve(commands)
        assert size.commands == half


def test_batch_without_a_command_changes_nothing(size: BatchSize) -> None:
    """Lanes that begin with an entry of a newer version are claimed and released."""
    size.adapt(0, 1.0, 0.003)
    assert size.commands == MOST


@pytest.mark.parametrize("most", [1, 7])
def test_small_most_is_kept(most: int) -> None:
    size = BatchSize(most, AIM)
    size.halve(1)
    assert size.commands == 1
    after(size, 10, 0.001, 1e-6)
    assert size.commands == most
