"""How fast a backlog goes down when the database refuses some of its commands.

    .venv/bin/python -m benchmarks.refusals [--repeats 3]

20,000 commands of 10,000 learners, of which a check constraint of the application's refuses none, one in a thousand,
one in a hundred and one in ten. Trials take turns; each share's rate is given as a ratio to that without refusals.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import median

from .command import options, temporary_site
from .drain import Drained, drain_more
from .rivals.levelq import Levelq
from .site import Site
from .workload import SEED, Grant, Workload

WORKLOAD = Workload("refusals", 10_000, 20_000)
GOALS: Mapping[float, float] = {0.001: 0.5, 0.01: 0.3, 0.1: 0.1}  # the ratio to reach, by the share refused
SHARES = (0.0, *GOALS)
REFUSED_XP = 1_000_000  # more than the other commands give a learner
_CONSTRAINT = f"ALTER TABLE specialization_progress ADD CONSTRAINT ck_refusals CHECK (total_xp < {REFUSED_XP})"
_NO_CONSTRAINT = "ALTER TABLE specialization_progress DROP CONSTRAINT ck_refusals"


def grants(share: float) -> list[Grant]:
    """The work, with this share of the commands, at random indexes, that the constraint refuses."""
    made = WORKLOAD.grants()
    for n in random.Random(SEED).sample(range(len(made)), round(share * len(made))):
        made[n] = made[n]._replace(xp=REFUSED_XP)
    return made


def trial(site: Site, share: float) -> Drained:
    """Drain the work once; raises AssertionError unless exactly the commands at fault were refused."""
    made = grants(share)
    site.reset(WORKLOAD.users)
    site.database.execute(_CONSTRAINT)
    try:
        refused = sum(grant.xp == REFUSED_XP for grant in made)
        return drain_more(site, Levelq(), f"{share:.1%} refused", made, refused=refused)
    finally:
        site.database.execute(_NO_CONSTRAINT)


def trials(site: Site, repeats: int) -> dict[float, list[float]]:
    """The rates by share, in turn, so that a machine that slows down slows all of them."""
    rates: dict[float, list[float]] = {share: [] for share in SHARES}
    for _ in range(repeats):
        for share in SHARES:
            rates[share].append(trial(site, share).rate)
    return rates


def ratio(rates: Mapping[float, Sequence[float]], share: float) -> float:
    """The median rate with this share refused, to that with none."""
    return median(rates[share]) / median(rates[0.0])


def table(rates: Mapping[float, Sequence[float]]) -> str:
    """One line per share: rate, ratio to clean, goal."""
    lines = ["refused      rate     of clean  goal"]
    for share in SHARES:
        goal = f"{GOALS[share]:.1f}" if share in GOALS else ""
        lines.append(f"{share:7.1%}  {median(rates[share]):8,.0f}/s  {ratio(rates, share):8.2f}  {goal}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with temporary_site() as site:
        print(table(trials(site, repeats)))


if __name__ == "__main__":
    main()
