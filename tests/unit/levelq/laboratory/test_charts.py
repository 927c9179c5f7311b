from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

from levelq.laboratory.charts import Series, chart, decades, linear, nines, round_step, seconds_axis


def test_axes_have_round_labels_and_hold_all_values() -> None:
    assert [linear(top).high for top in (1, 7, 99, 1116, 4_800)] == [1, 8, 100, 1500, 6000]
    assert [round_step(rough) for rough in (0.011, 0.3, 2.1, 30)] == [0.02, 0.5, 2.5, 50]
    assert seconds_axis(20.0).high == 20.0
    axis = decades([0.004, 1.3])
    assert (axis.low, axis.high) == (0.001, 10.0) and [label for _, label in axis.ticks][0::4] == ["1 ms", "10 s"]
    assert axis.share(0.001) == 0 and axis.share(0.1) == pytest.approx(0.5) and axis.share(99) == 1
    assert [label for _, label in nines(1000).ticks] == ["0 %", "50 %", "90 %", "99 %", "99.9 %"]


def test_gap_in_a_line_stays_a_gap_and_a_lone_value_is_a_dot() -> None:
    points = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0)]
    drawn = chart([Series("a & b", points, "blue", filled=True)], seconds_axis(4.0), linear(2.0), [(1.0, "<end>")])
    svg = ET.fromstring(drawn[drawn.index("<svg") :])
    lines = [path.attrib["d"] for path in svg.iter("path") if path.attrib["class"].startswith("line")]
    assert len(lines) == 2 and lines[1].endswith("h0")
    assert "a &amp; b" in drawn and "&lt;end&gt;" in drawn
