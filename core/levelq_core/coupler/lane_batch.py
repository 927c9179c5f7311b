"""The unit that the coupler works on: one lane's commands of a batch, with what was found and decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from levelq_core.database.schema import LICENSES, PROGRESS, Schema
from levelq_core.database.table_names import TOTALS
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.record import RESET, Lane, Record
from levelq_core.domain.rules import NOTHING, Decision, Limits, State, lane_refusal
from levelq_core.errors import LevelqError

from .statements import LICENSE_VALUES, PROGRESS_VALUES, Statements


class Database(NamedTuple):
    """What the batches of one engine share."""

    schema: Schema
    statements: Statements
    catalog: Catalog

    @property
    def limits(self) -> Limits:
        """The greatest values its columns hold."""
        return self.schema.limits

    @classmethod
    def of(cls, schema: Schema, catalog: Catalog) -> Database:
        """Combine the two; the statements are built once per schema."""
        return cls(schema, Statements.of(schema), catalog)

    def checking_all_deferred(self) -> Database:
        """The same, but every deferred constraint is checked before the COMMIT.

        Only for levelq's own transactions: in a caller's, an error of the caller's changes would blame a command.
        """
        return self._replace(statements=Statements.of(self.schema, all_deferred=True))


class BatchInfo(NamedTuple):
    """What a batch writes into each of its ledger rows: its id, its transaction, where it came from, which worker."""

    batch: bytes
    xid: int
    source: str
    worker: str | None = None


@dataclass(slots=True)
class LaneBatch:
    """One lane's commands, in order. `indexes` are their indexes in the caller's input.

    `rejection`: why no command of the lane can be applied. `rejected`: commands that the database is known to refuse.
    `locked_state` is what the locked rows held: a level of 0 for a row that was missing, or that this batch inserted.
    `state` is what they will hold. `progress_ctid` and `license_ctid`: their ctids, which stay while they are locked.
    `sets_totals`: a Reset was applied, so the totals lose their fractions even where nothing else changes.
    `was_parked`: an error that follows this lane has parked it before, so a further one does not blame the database.
    `whole`: the lane's batch, if this is a part of it. `exceptional`: some of its commands may be rejected, or were
    decided before. To count, only the decisions of such lanes need be read.
    """

    lane: Lane
    records: Sequence[Record]
    indexes: Sequence[int]
    rejection: Decision | None = None
    decisions: list[Decision] = field(default_factory=list)
    locked_state: State = NOTHING
    state: State = NOTHING
    rejected: Mapping[bytes, Decision] | None = None
    license_id: int = 0
    progress_ctid: bytes = b""
    license_ctid: bytes = b""
    inserted_progress: bool = False
    inserted_license: bool = False
    sets_totals: bool = False
    was_parked: bool = False
    whole: LaneBatch | None = None
    exceptional: bool = False

    def reset(self, database: Database) -> None:
        """Forget what a rolled-back attempt found and decided."""
        self.decisions = []
        self.locked_state = self.state = NOTHING
        self.license_id = 0
        self.inserted_progress = self.inserted_license = self.sets_totals = False
        self.rejected = None
        refusal = lane_refusal(self.lane, database.catalog, database.limits)
        self.rejection = None if refusal is None else Decision("validation_error", refusal)

    @property
    def progress_row(self) -> tuple[int, int, int, int, int, int]:
        """What the locked progress row holds now: level and totals."""
        return (1, 0, 0, 0, 0, 0) if self.inserted_progress else progress_of(self.locked_state)

    @property
    def license_row(self) -> tuple[int, int]:
        """What the locked license row holds now."""
        return (1, 1) if self.inserted_license else self.locked_state[1:3]

    @property
    def changes_progress(self) -> bool:
        """Whether its commands change the progress row."""
        changes = self.sets_totals or progress_of(self.state) != self.progress_row
        return bool(self.license_id and self.state[0]) and changes

    @property
    def changes_license(self) -> bool:
        """Whether its commands change the license row."""
        return bool(self.license_id and self.state[1]) and self.state[1:3] != self.license_row

    def first_command(self) -> LaneBatch:
        """The lane's first command, as a part of its own."""
        return self._part(slice(1))

    def halves(self) -> tuple[LaneBatch, LaneBatch]:
        """The lane's earlier and later commands."""
        middle = len(self.records) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, which: slice) -> LaneBatch:
        whole = self.whole or self
        return LaneBatch(self.lane, self.records[which], self.indexes[which], was_parked=self.was_parked, whole=whole)


NewDecision = tuple[LaneBatch, Record, Decision]  # a command decided now


def progress_of(state: State) -> tuple[int, int, int, int, int, int]:
    """The values of the progress row in a state: level and totals."""
    return (state[0], *state[3:])


def changed_columns(
    progress: Sequence[int], license_: Sequence[int], after: State, record: Record
) -> set[tuple[str, str]]:
    """The columns, as (table, name), in which these rows differ from the state after a command.

    A Reset sets all totals, because it may take a fraction away.
    """
    changed = {
        (table, name)
        for table, names, old, new in (
            (PROGRESS, PROGRESS_VALUES, progress, progress_of(after)),
            (LICENSES, LICENSE_VALUES, license_, after[1:3]),
        )
        for name, was, becomes in zip(names, old, new, strict=True)
        if was != becomes
    }
    return changed | {(PROGRESS, name) for name in TOTALS} if record.kind == RESET else changed


def separate_parked(lane_batches: Sequence[LaneBatch]) -> list[Sequence[LaneBatch]]:
    """Cut a sorted batch into parts that are tried one by one: each lane that was parked before is a part of its own.

    While its error lasts, it would fail all the others at each halving. One part if most were parked before, because
    cutting saves nothing then.
    """
    if 2 * sum(batch.was_parked for batch in lane_batches) > len(lane_batches):
        return [lane_batches]
    parts: list[Sequence[LaneBatch]] = []
    for parked, group in groupby(lane_batches, lambda batch: batch.was_parked):
        together = list(group)
        parts += [[batch] for batch in together] if parked else [together]
    return parts


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
    """A row is missing after it was found or inserted, or is not as it was written.

    Other code deleted it before it was locked: then the next attempt inserts it again. Or a trigger, rule or policy of
    the application leaves the row out: then no attempt succeeds, and that lane is at fault.
    """
