"""The unit the coupler works on: one lane's commands of a batch, with what was found and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from levelq_core.database.schema import Schema
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.codec import Lane, Record
from levelq_core.domain.rules import NOTHING, Decision, Limits, State, lane_refusal
from levelq_core.errors import LevelqError

from .statements import CHECK_ALL_DEFERRED, Statements


class Database(NamedTuple):
    """What one engine's batches have in common."""

    schema: Schema
    statements: Statements
    catalog: Catalog

    @property
    def limits(self) -> Limits:
        """The greatest values its columns hold."""
        return self.schema.limits

    @classmethod
    def of(cls, schema: Schema, catalog: Catalog) -> Database:
        """Put them together; the statements are built once per schema."""
        return cls(schema, Statements.of(schema), catalog)

    def checking_all_deferred(self) -> Database:
        """The same, in which every deferred constraint is checked before the COMMIT; in a transaction of our own only.

        What a caller's own changes left to be checked later is not to be blamed on a command.
        """
        return self._replace(statements=replace(self.statements, check_deferred=CHECK_ALL_DEFERRED))


class BatchInfo(NamedTuple):
    """What a batch writes into each of its ledger rows: its id, its transaction, where it came from."""

    batch: bytes
    xid: int
    source: str


@dataclass(slots=True)
class LaneBatch:
    """One lane's commands, in order. `places` are their positions in the caller's input.

    `found` is what the locked rows held: a level of 0 for a row that was missing, also if we just made it.
    `rejected`: of single commands it is known beforehand that the database will refuse them.
    `sets_totals`: a Reset was applied, so the totals lose their fractions even where nothing else changes.
    `was_parked`: an error that followed this lane has parked it before, so another one says nothing of the database.
    `progress_at` and `license_at` are where they lie (ctid), which nobody can change while we hold them.
    """

    lane: Lane
    records: Sequence[Record]
    places: Sequence[int]
    refusal: Decision | None = None
    decisions: list[Decision] = field(default_factory=list)
    found: State = NOTHING
    state: State = NOTHING
    rejected: Mapping[bytes, Decision] | None = None
    license_id: int = 0
    progress_at: bytes = b""
    license_at: bytes = b""
    made_progress: bool = False
    made_license: bool = False
    sets_totals: bool = False
    was_parked: bool = False

    def reset(self, database: Database) -> None:
        """Forget what a rolled-back attempt found and decided."""
        self.decisions = []
        self.found = self.state = NOTHING
        self.license_id = 0
        self.made_progress = self.made_license = self.sets_totals = False
        self.refusal = None
        self.rejected = None
        never = lane_refusal(self.lane, database.catalog, database.limits)
        if never is not None:
            self.refusal = Decision("validation_error", never)

    def head(self) -> LaneBatch:
        """The lane's first command, as a work of its own."""
        return self._part(slice(1))

    @property
    def progress_row(self) -> tuple[int, int, int, int, int, int]:
        """What the locked progress row holds now: level and totals."""
        return (1, 0, 0, 0, 0, 0) if self.made_progress else (self.found[0], *self.found[3:])

    @property
    def license_row(self) -> tuple[int, int]:
        """What the locked license row holds now."""
        return (1, 1) if self.made_license else self.found[1:3]

    @property
    def changes_progress(self) -> bool:
        """Whether its commands change the progress row."""
        changes = self.sets_totals or progress_of(self.state) != self.progress_row
        return bool(self.license_id and self.state[0]) and changes

    @property
    def changes_license(self) -> bool:
        """Whether its commands change the license row."""
        return bool(self.license_id and self.state[1]) and self.state[1:3] != self.license_row

    def halves(self) -> tuple[LaneBatch, LaneBatch]:
        """The lane's earlier and later commands, as works of their own."""
        middle = len(self.records) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, which: slice) -> LaneBatch:
        return LaneBatch(self.lane, self.records[which], self.places[which], was_parked=self.was_parked)


def apart(works: Sequence[LaneBatch]) -> list[Sequence[LaneBatch]]:
    """A batch, sorted, in parts: each lane that was parked before by itself, and what lies between, still in order.

    While its error lasts, it would otherwise fail all the others first, at each halving. If most were parked before,
    that saves nothing.
    """
    if 2 * sum(work.was_parked for work in works) > len(works):
        return [works]
    parts: list[Sequence[LaneBatch]] = []
    for parked, lanes in groupby(works, key=lambda work: work.was_parked):
        found = list(lanes)
        parts += [[work] for work in found] if parked else [found]
    return parts


NewDecision = list[tuple[LaneBatch, Record, Decision]]  # the commands decided now, in order of effect


def progress_of(state: State) -> tuple[int, int, int, int, int, int]:
    """What a state writes into the progress row: level and totals."""
    return (state[0], *state[3:])


class Parked(NamedTuple):
    """A lane that must wait: the decisions on its first commands stand, the command after them could not be decided.

    `reason` is one line, fit for a log. `locked`: other code holds the lane's rows; else it is an error of the
    database that follows this lane.
    """

    work: LaneBatch
    reason: str
    locked: bool


class SchemaChanged(LevelqError):
    """The tables have changed since they were read: nothing may be rejected until they are read again."""


class RowsVanished(LevelqError):
    """A row is not there after it was found or made, or not as it was written.

    Other code deleted it before it was locked: then the next attempt makes it again. Or a trigger, rule or policy of
    the application leaves the row out: then no attempt succeeds, and it is the fault of that lane.
    """
