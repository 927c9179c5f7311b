"""When batches are called slow: against what batches of their size usually take."""

from typing import Any

import pytest

from levelq_worker.draining.batch_times import ACCEPTED_SECONDS, LEAST_USUAL, BatchTimes

USUAL = [(20, 0.01)] * LEAST_USUAL  # commands and seconds
EXPECTED: Any = pytest.approx(0.01)


def after(*batches: tuple[int, float]) -> BatchTimes:
    times = BatchTimes()
    for at, (entries, seconds) in enumerate(batches):
        times.add(entries, seconds, float(at))
    return times


@pytest.mark.parametrize(
    ("batches", "slow"),
    [
        pytest.param([(20, 9.0)] * 9, False, id="nothing is usual yet"),
        pytest.param([*USUAL, *[(20, 1.8)] * 2], False, id="two slow ones"),
        pytest.param([*USUAL, *[(20, 1.8)] * 3], True, id="three of five"),
        pytest.param([*USUAL, *[(20, 0.09)] * 5], False, id="below a tenth of a second"),
        pytest.param([*USUAL, *[(2_000, 0.9)] * 5], False, id="a burst, slower in proportion"),
        pytest.param([*USUAL, *[(2_000, 9.0)] * 5], True, id="a burst that is slower than in proportion"),
        pytest.param([(2_000, 0.9)] * 10 + [(3, 0.9)] * 5, False, id="small ones as slow as large ones"),
        pytest.param([*USUAL, *[(20, 1.8)] * 3, *[(20, 0.06)] * 5], True, id="still twice as slow"),
        pytest.param([*USUAL, *[(20, 1.8)] * 3, *[(20, 0.03)] * 3], False, id="below half a tenth of a second"),
        pytest.param([*USUAL, *[(20, 1.8)] * 200], True, id="slow ones become no usual"),
        pytest.param([*USUAL, *[(20, 1.8)] * 3, *[(20, 0.01)] * 3], False, id="fast again"),
    ],
)
def test_batches_are_slow_against_the_usual_of_their_size(batches: list[tuple[int, float]], slow: bool) -> None:
    assert (after(*batches).slow_since is not None) is slow


def test_slow_batches_tell_what_is_usual_and_since_when() -> None:
    times = after(*USUAL, *[(20, 1.8)] * 9)
    assert (times.commands, times.seconds, times.usual, times.slow_since) == (20, 1.8, EXPECTED, LEAST_USUAL + 2)


def test_what_stays_slow_becomes_the_usual() -> None:
    times = after(*USUAL, *[(20, 1.8)] * 5)
    times.add(20, 1.8, 20 + ACCEPTED_SECONDS)
    for at in range(20):
        times.add(20, 1.8, 30 + ACCEPTED_SECONDS + at)
    assert (times.slow_since, times.usual) == (None, 1.8)
