import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from matplotlib.figure import Figure

from levelq.laboratory.charts import Chart, Series, save
from levelq.loadtest.plots import nines


def axis(top: float, *, durations: bool = False, low: float = 0.0) -> tuple[tuple[float, float], list[str]]:
    """The ends of the vertical axis of values up to `top`, and its labels."""
    axes = Figure().add_subplot()
    Chart([Series("x", [(0.0, low), (1.0, top)], "blue")], 20.0, durations=durations).draw(axes)
    assert axes.get_xlim() == (0.0, 20.0)
    low, high = axes.get_ylim()
    labels = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    return (low, high), [label.get_text() for at, label in labels if low * 0.99 < at < high * 1.01 or at == low]


def test_axes_have_round_labels_and_hold_all_values() -> None:
    assert [axis(top)[0][1] for top in (1, 7, 99, 1116, 4_800)] == [1, 8, 100, 1500, 6000]
    assert axis(4_800)[1] == ["0", "2,000", "4,000", "6,000"]
    ends, labels = axis(1.3, durations=True, low=0.004)
    assert ends == pytest.approx((0.001, 10.0)) and labels[::4] == ["1 ms", "10 s"]
    assert axis(1.3, durations=True, low=0.00001)[0][0] == pytest.approx(0.0001)
    assert [label for _, label in nines(1000)] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_gap_in_a_line_stays_a_gap_and_a_lone_value_is_a_dot(tmp_path: Path) -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0)]
    chart = Chart([Series("a & b", points, "blue", filled=True)], 4.0, marks=[(1.0, "<end>")])
    drawn = chart.svg().replace("xlink:", "")
    svg = ET.fromstring(drawn[drawn.index("<svg") :])
    blue = [element.attrib for element in svg.iter() if "stroke: var(--blue)" in element.attrib.get("style", "")]
    (line,) = [each["d"] for each in blue if "fill: none" in each["style"]]
    (dot,) = [each for each in blue if "href" in each]
    assert line.split()[::3] == ["M", "L", "M"] and line.split()[-2] == dot["x"]
    assert "a &amp; b" in drawn and "&lt;end&gt;" in drawn
    save(tmp_path / "new" / "picture.png", "both", [("one", chart), ("two", chart)])
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
