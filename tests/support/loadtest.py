"""A load test that has ended, for what shows its result."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from levelq.laboratory.sampler import Sample
from levelq.loadtest.options import LoadTestOptions
from levelq.loadtest.result import Result
from levelq.loadtest.scenarios import chosen
from levelq.loadtest.timing import CommandTiming, figures
from levelq_core.operations.verify import Check, Report

START = 1_764_000_000.0


def result(*, violations: int = 0, undecided: int = 0, size: int = 400, **given: object) -> Result:
    """A run of four seconds: a command each hundredth of a second, each takes 20 ms."""
    found = [
        CommandTiming(at, at + 0.001, at + 0.002, None if number < undecided else at + 0.02)
        for number in range(size)
        for at in [START + number / 100]
    ]
    check = Check("I2", "totals = start + the sum of what was applied", 400)
    for _ in range(violations):
        check.add(10, "duplicated", 7, "PLAYER", UUID(int=5), "counted twice: <b>not</b> 1 & 2")
    options = LoadTestOptions(chosen("match", users=50, seconds=4.0, burst=10), seed=42)
    samples = [Sample(START + at, at, 0, 0.0, 100 * at) for at in range(5)]
    counts = Counter(sent=size, queued=size, again=3)
    made = Result(
        options, START, START + 4.1, counts, {}, found, figures(found), samples, size - undecided, 9, Report([check]),
        {"settings": "a <script>"}, False, [(2.0, "matches end")],
    )  # fmt: skip
    return Result(**{**vars(made), **given})
