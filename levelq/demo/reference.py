"""The rules of the game, written a second time: a plain fold that shares no line with the code under test."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .scenario import Sent

STEPS = {
    "PLAYER": (0, 1000, 2500, 5000, 10000, 20000, 40000, 80000),
    "COACH": (0, 1000, 2500, 5000, 10000, 20000, 40000, 80000),
    "INTERNSHIP": (0, 5000, 15000),
}


@dataclass(frozen=True)
class Learner:
    """Both rows of one lane; level 0: no rows."""

    progress: int = 0
    license: int = 0
    highest: int = 0
    xp: int = 0
    sessions: int = 0
    projects: int = 0
    theory: int = 0
    practice: int = 0

    @property
    def totals(self) -> tuple[int, int, int, int, int]:
        """What is summed up."""
        return self.xp, self.sessions, self.projects, self.theory, self.practice

    @property
    def row(self) -> list[int]:
        """As the ledger writes it."""
        return [self.progress, self.license, self.highest, *self.totals]


def apply(learner: Learner, sent: Sent) -> Learner | None:
    """What one command makes of a learner; None if it has to be refused."""
    if sent.kind == "sync_levels":
        level = learner.progress if sent.source == "progress" else learner.license
        return _at(learner, level) if level >= 1 else None
    here = learner if learner.progress else Learner(1, 1, 1)
    if sent.specialization != "COACH" and (sent.theory or sent.practice):
        return None
    if sent.kind == "reset":
        here = Learner(here.progress, here.license, here.highest)
    here = replace(
        here,
        xp=here.xp + sent.xp,
        sessions=here.sessions + sent.sessions,
        projects=here.projects + sent.projects,
        theory=here.theory + sent.theory,
        practice=here.practice + sent.practice,
    )
    steps = STEPS[sent.specialization]
    if min(here.totals) < 0:
        return None
    earned = sum(1 for step in steps if here.xp >= step)
    if sent.earned:
        return _at(here, earned)
    if sent.kind == "adjust":
        return _at(here, max(here.progress, here.license))
    if sent.kind in ("set_level", "reset"):
        return _at(here, sent.level) if 1 <= sent.level <= len(steps) else None
    return _at(here, max(here.progress, here.license, earned))


def _at(learner: Learner, level: int) -> Learner:
    return replace(learner, progress=level, license=level, highest=max(learner.highest, level))
