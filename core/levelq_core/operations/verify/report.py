"""Checks: how one is stated, what it found, and the report of them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID


class Query(NamedTuple):
    """A check that one query makes. `cases` counts what is checked, `wrong` finds what must not be.

    `wrong` returns (user, specialization, command, verdict, detail). `foreign`: with --foreign-writes, findings are a
    note. `note`: findings are always a note, no violation. `hint`: what the findings may mean.
    """

    invariant: str
    what: str
    cases: str
    wrong: str
    foreign: bool = False
    note: bool = False
    hint: str = ""


class Violation(NamedTuple):
    """One thing that must not be; None where it has no user, specialization or command.

    `verdict` is lost, duplicated or unexpected where one of Jepsen's words fits, else what was broken.
    """

    invariant: str
    verdict: str
    user_id: int | None
    specialization: str | None
    command_id: UUID | None
    detail: str


@dataclass
class Check:
    """One thing that was checked: how many cases, how many of them wrong, the first of those.

    `note`: findings are reported, but are no violations. `hint`: what findings may mean, one sentence or "".
    """

    invariant: str
    what: str
    checked: int = 0
    found: int = 0
    examples: list[Violation] = field(default_factory=list)
    note: bool = False
    hint: str = ""

    @property
    def violations(self) -> int:
        """How many violations; none if it only takes note."""
        return 0 if self.note else self.found

    def add(self, limit: int, *rest: object) -> None:
        """Count one finding (the fields of Violation after the first), and keep it if fewer than `limit` are kept."""
        self.found += 1
        if len(self.examples) < limit:
            self.examples.append(Violation(self.invariant, *rest))  # type: ignore[arg-type]


@dataclass
class Report:
    """Everything that was checked, in the order of the invariants.

    `remarks`: what the operator should know of the run itself, such as an index that would make it faster.
    """

    checks: list[Check] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def extend(self, checks: Iterable[Check]) -> None:
        """Take in more checks."""
        self.checks = sorted([*self.checks, *checks], key=lambda check: check.invariant)

    @property
    def violations(self) -> int:
        """How many violations of all invariants."""
        return sum(check.violations for check in self.checks)

    @property
    def examples(self) -> list[Violation]:
        """The violations that were kept."""
        return [example for check in self.checks if not check.note for example in check.examples]

    @property
    def notes(self) -> list[Check]:
        """The checks that only take note, and found something."""
        return [check for check in self.checks if check.note and check.found]

    @property
    def broken(self) -> set[str]:
        """The invariants that do not hold."""
        return {check.invariant for check in self.checks if check.violations}
