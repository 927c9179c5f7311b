from pathlib import Path

import pytest

from levelq.charts import area, dots, path
from levelq.laboratory.charts import Chart, Series, save
from levelq.loadtest.plots import nines


def axis(top: float, *, durations: bool = False, low: float = 0.0) -> tuple[tuple[float, float], list[str]]:
    """The ends of the vertical axis of values up to `top`, and its labels."""
    chart = Chart([Series("x", [(0.0, low), (1.0, top)], "blue")], 20.0, durations=durations)
    assert [chart.ticks[0], chart.ticks[-1]] == [(0.0, "0"), (20.0, "20")]
    return (chart.across[0], chart.across[-1]), chart.labels[::-1]


def test_axes_have_round_labels_and_hold_all_values() -> None:
    assert [axis(top)[0][1] for top in (1, 7, 99, 1116, 4_800)] == [1, 8, 100, 1500, 6000]
    assert axis(4_800)[1] == ["0", "2,000", "4,000", "6,000"]
    ends, labels = axis(1.3, durations=True, low=0.004)
    assert ends == pytest.approx((0.001, 10.0)) and labels[::4] == ["1 ms", "10 s"]
    assert axis(1.3, durations=True, low=0.00001)[0][0] == pytest.approx(0.0001)
    assert [label for _, label in nines(1000)] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_gap_in_a_line_stays_a_gap_and_a_lone_value_is_a_dot(tmp_path: Path) -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, 1.0)]
    chart = Chart([Series("a", points, "green", filled=True)], 4.0, marks=[(1.0, "end")])
    parts = chart.runs(chart.series[0])
    assert path(parts) == "M0.0 50.0L150.0 0.0" and dots(parts) == "M450.0 50.0h0"
    assert area(parts) == "M0.0 100L0.0 50.0L150.0 0.0V100ZM450.0 100L450.0 50.0V100Z"
    save(tmp_path / "new" / "picture.png", "both", [("one", chart), ("two", chart)])
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_value_in_steps_holds_until_the_next_one() -> None:
    chart = Chart([Series("a", [(0.0, 1.0), (2.0, 2.0), (4.0, 0.0)], "green", steps=True)], 4.0)
    assert path(chart.runs(chart.series[0])) == "M0.0 50.0L300.0 50.0L300.0 0.0L600.0 0.0L600.0 100.0"


def test_durations_are_drawn_by_their_powers_of_ten() -> None:
    chart = Chart([Series("a", [(0.0, 0.001), (1.0, 0.1), (2.0, 0.0)], "blue")], 2.0, durations=True)
    assert path(chart.runs(chart.series[0])) == "M0.0 100.0L300.0 0.0L600.0 100.0"
