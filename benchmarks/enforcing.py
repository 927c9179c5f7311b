"""What `levelq db enforce` costs a drain.

    .venv/bin/python -m benchmarks.enforcing [--repeats 5]

500 learners with many commands each; learners with one command each, of which one in ten raises a level; and the same
with a level raised by each command. Trials with and without the triggers take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from levelq_core.database.engine import engine_open
from levelq_core.operations.enforcement import enforce

from .command import options, temporary_site
from .drain import Drained, drain_more
from .rivals.levelq import Levelq
from .site import Site
from .workload import Grant, Workload

LEVEL_XP = 1_000  # of the second level


class Shape(NamedTuple):
    """`every`: one of this many commands raises a level at once; 0: levels are raised now and then."""

    workload: Workload
    every: int

    def grants(self) -> list[Grant]:
        """The commands, in order."""
        made = self.workload.grants()
        if not self.every:
            return made
        return [grant._replace(xp=1 if n % self.every else LEVEL_XP) for n, grant in enumerate(made)]


SHAPES = (
    Shape(Workload("500 users", 500, 100_000), 0),
    Shape(Workload("one command per user, a tenth raises a level", 40_000, 40_000), 10),
    Shape(Workload("one command per user, each raises a level", 40_000, 40_000), 1),
)


def trial(site: Site, shape: Shape, on: bool) -> Drained:
    """Drain the work once, with the triggers or without."""
    with engine_open(site.settings) as engine:
        enforce(engine, on=on)
    site.reset(shape.workload.learners)
    return drain_more(site, Levelq(), shape.workload.name, shape.grants())


def line(shape: Shape, off: Sequence[Drained], on: Sequence[Drained]) -> str:
    """Both rates and their ratio, both processor times of a command and their ratio."""
    rates = [median(drained.rate for drained in side) for side in (off, on)]
    spent = [median(sum(drained.parts.values()) for drained in side) for side in (off, on)]
    return (
        f"{shape.workload.name:46} {rates[0]:8,.0f}/s {rates[1]:8,.0f}/s {rates[1] / rates[0]:5.2f}"
        f"  {spent[0]:6.1f} us {spent[1]:6.1f} us {spent[1] / spent[0]:5.2f}"
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with temporary_site() as site:
        for shape in SHAPES:
            sides: tuple[list[Drained], list[Drained]] = ([], [])
            for _ in range(repeats):
                for on, side in enumerate(sides):
                    side.append(trial(site, shape, bool(on)))
            print(line(shape, *sides), flush=True)


if __name__ == "__main__":
    main()
