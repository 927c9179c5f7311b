"""Run a batch inside a transaction so that what the database refuses costs only the command at fault.

One rule decides who is to blame. An error that follows one lane while others pass is that lane's: its command is
rejected if the error is provably about the command's content (blame.py), else the lane is parked. An error that every
lane gets is the database's: it is raised, and no command is charged. A lane that was parked before does not blame
the database.

Every attempt runs in a SAVEPOINT. A list of pieces that are left to do begins with the whole batch. A piece that fails
is replaced by its halves, the first half in front, until one command is left: at most 2 log2(n) further attempts for
one command at fault among n, and one to reject it. Each piece is sorted by lane, which keeps the lock order.

If the tables have changed since they were read, they are read again and the attempt is repeated; nothing is rejected
by what was known before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from levelq_core.database.cursors import Cursor
from levelq_core.database.fingerprint import is_current
from levelq_core.database.sqlstate import ErrorClass, classify, constraint_of, in_words, names_what_is_not_there
from levelq_core.domain.record import Lane
from levelq_core.domain.rules import Decision

from .blame import is_commands_fault
from .couple import Stopwatch, couple, owning_lanes
from .lane_batch import BatchInfo, Database, LaneBatch, Parked, RowsVanished, SchemaChanged, separate_parked
from .locking import locked_elsewhere
from .screening import Remembered, Screen
from .statements import PROBE, PROBE_ROLLBACK, RELEASE, ROLLBACK, SAVEPOINT, SHORTEN_LOCK_TIMEOUT

LOCKED_REASON = "other code holds its rows or its user"
ATTEMPTS = 4  # of one piece when another transaction was faster; each further one needs yet another competitor
PROBES = 16  # of other lanes, once two were found at fault and none has passed


class Fault(NamedTuple):
    """The error of a failed attempt, and what it means."""

    error: Exception
    meaning: ErrorClass


@dataclass
class Piece:
    """Lanes, or a part of one lane, that are still to be decided.

    `known_fault`: its fault, if it is known without an attempt. `if_passes`: what is known of the other half if this
    piece passes its first attempt: the fault of both is there.
    """

    lane_batches: Sequence[LaneBatch]
    known_fault: Fault | None = None
    if_passes: tuple[Piece, Fault] | None = None


class Isolation:
    """The batch of one transaction. `parked` collects the lanes that must wait.

    Of a parked lane, `decisions` holds those on its first commands, which stand; the rest is undecided.
    `waits`: the caller can wait for lanes that other code holds, and for the only lane of a batch; else their errors
    are raised. `checks`: the check constraints that refused commands of recent batches. `reread`: reads the tables
    again after a change; may raise SchemaError. `between`: called after each failed attempt.
    `tables_changed`: afterwards, whether a statement did not fit the tables: the schema should be read again.
    `locking`: how long it took to lock rows.
    """

    def __init__(
        self,
        cursor: Cursor[Any],
        database: Database,
        info: BatchInfo,
        *,
        parked: list[Parked],
        waits: bool = True,
        checks: Remembered | None = None,
        reread: Callable[[], Database] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._cursor = cursor
        self._database = database
        self._reread = reread
        self._compared = False  # whether the tables were compared with what is known of them
        self._info = info
        self._parked = parked
        self._waits = waits
        self._between = between
        self._screen = Screen(cursor, checks or Remembered())
        self._owning_lanes: dict[bytes, Lane] = {}
        self._lane_batches: Sequence[LaneBatch] = ()
        self._todo: list[Piece] = []  # the next piece is the last
        self._attempts = 0
        self._timeout_shortened = False
        self._passed = False  # whether a command was applied: the database works, for some lanes at least
        self._faults: list[Exception] = []  # of lanes that were not parked before
        self._unyielding: set[str | None] = set()  # unique constraints (None: missing rows) that no attempt got past
        self.tables_changed = False
        self.locking = Stopwatch()

    def run(self, lane_batches: Sequence[LaneBatch]) -> None:
        """Decide all commands of these lanes, sorted here; afterwards each has its decisions, in order.

        Raises psycopg.Error for a transient failure, and for an error that every lane gets; then nothing counts as
        decided, and the caller must roll back to where it began.
        """
        self._owning_lanes = owning_lanes(lane_batches)
        self._lane_batches = sorted(lane_batches, key=lambda batch: batch.lane)
        self._todo = [Piece(part) for part in reversed(separate_parked(self._lane_batches))]
        while self._todo:
            piece = self._todo.pop()
            fault = piece.known_fault or self._try(piece.lane_batches)
            if fault is not None:
                self._isolate(piece.lane_batches, fault)
            elif piece.if_passes is not None:
                other, fault = piece.if_passes
                other.known_fault = None if _is_smallest(other, fault) else fault
        self._raise_what_every_lane_gets()
        self._screen.end()

    def _raise_what_every_lane_gets(self) -> None:
        """Raise if no lane passed. A lane that is alone cannot be compared with others; it stays parked."""
        compared = sum(not batch.was_parked for batch in self._lane_batches)
        alone = compared == 1 and self._waits and not self.tables_changed
        if self._faults and not self._passed and not alone:
            raise self._faults[0]

    def _try(self, lane_batches: Sequence[LaneBatch]) -> Fault | None:
        """Attempt these lanes, again while another transaction is faster; the fault, if they do not pass."""
        for _ in range(ATTEMPTS):
            error = self._attempt(lane_batches)
            if error is None:
                return None
            self._between()
            fault = Fault(error, self._classify(error))
            if fault.meaning is ErrorClass.ISOLATE and self._tables_have_changed():
                fault = Fault(error, ErrorClass.RETRY)
            if fault.meaning is not ErrorClass.RETRY:
                break
        return fault

    def _attempt(
        self, lane_batches: Sequence[LaneBatch], rejection: Decision | None = None, keep: bool = True
    ) -> Exception | None:
        """Decide these lanes once; the error if that failed. `keep=False`: roll back what passes, too."""
        self._attempts += 1
        for batch in lane_batches:
            batch.reset(self._database)
            batch.rejection = batch.rejection or rejection
        self._cursor.execute(SAVEPOINT)
        try:
            known = self._info, self._owning_lanes, self._screen, self.locking
            couple(self._cursor, self._database, lane_batches, *known)
        except (psycopg.Error, UnicodeEncodeError, RowsVanished, SchemaChanged) as error:
            if self._cursor.connection.closed:
                raise
            self._cursor.execute(ROLLBACK)
            if isinstance(error, SchemaChanged):
                self._read_tables_again()
            return error
        self._cursor.execute(RELEASE if keep else ROLLBACK)
        for batch in lane_batches:
            self._passed = self._passed or any(d.error is None and not d.duplicate for d in batch.decisions)
            if keep and batch.whole is not None:
                batch.whole.decisions += batch.decisions
        return None

    def _classify(self, error: Exception) -> ErrorClass:
        if isinstance(error, SchemaChanged):
            return ErrorClass.RETRY
        meaning = ErrorClass.RETRY if isinstance(error, RowsVanished) else classify(error)
        if meaning is ErrorClass.RETRY and constraint_of(error) in self._unyielding:
            return ErrorClass.ISOLATE
        return meaning

    def _tables_have_changed(self) -> bool:
        """After an error, once in a batch: whether the tables have changed; then they are read again."""
        fingerprint = self._database.schema.fingerprint
        if self._compared or not fingerprint:
            return False
        self._compared = True
        if is_current(self._cursor, fingerprint):
            return False
        self._read_tables_again()
        return True

    def _read_tables_again(self) -> None:
        if self._reread is not None:
            self._database = self._reread()

    def _isolate(self, lane_batches: Sequence[LaneBatch], fault: Fault) -> None:
        """Find the command at fault in lanes that do not pass; raise an error that is no lane's."""
        error, meaning = fault
        if meaning is ErrorClass.LOCK_TIMEOUT and self._waits:
            self._park_locked(lane_batches, fault)
        elif meaning is ErrorClass.ISOLATE and self._screen.add(error, self._database):
            self._todo.append(Piece(lane_batches))  # again: what that constraint refuses is known beforehand now
        elif meaning is ErrorClass.ISOLATE:
            self._narrow(lane_batches, fault)
        elif meaning is ErrorClass.RETRY and not isinstance(error, SchemaChanged):
            self._unyielding.add(constraint_of(error))  # a unique constraint or a trigger of the application's own
            self._narrow(lane_batches, Fault(error, ErrorClass.ISOLATE))
        else:
            raise error

    def _narrow(self, lane_batches: Sequence[LaneBatch], fault: Fault) -> None:
        """Go on with both halves, or blame the only command there is."""
        if len(lane_batches) > 1:
            middle = len(lane_batches) // 2
            first, second = lane_batches[:middle], lane_batches[middle:]
        elif len(lane_batches[0].records) > 1:
            lane_batches[0].decisions = []  # those on its parts will follow
            first, second = ([half] for half in lane_batches[0].halves())
        else:
            self._blame(lane_batches[0], fault.error)
            return
        behind = Piece(second)
        self._todo += [behind, Piece(first, if_passes=(behind, fault))]

    def _blame(self, batch: LaneBatch, error: Exception) -> None:
        """Reject a command whose own content is refused; else park its lane, if the database works for others."""
        if is_commands_fault(self._cursor, self._database, batch, error):
            again = self._attempt([batch], Decision("database_error", in_words(error)))
        elif self._attempts == 1:  # no bisection has tried it twice: statements may have been prepared for older tables
            again = self._attempt([batch])
        else:
            again = error
        if again is None:
            return
        if isinstance(again, SchemaChanged):  # the proof was of the tables as they were
            self._todo.append(Piece([batch]))
            return
        if self._classify(again) is not ErrorClass.ISOLATE:
            raise again
        self.tables_changed = self.tables_changed or names_what_is_not_there(again)
        if not batch.was_parked:
            self._faults.append(again)
            if not self._passed and len(self._faults) > 1 and not self._others_pass(batch):
                raise self._faults[0]
        self._park([batch], in_words(again), locked=False)

    def _others_pass(self, batch: LaneBatch) -> bool:
        """Whether a command can be applied in some of the lanes behind this one; True if there are none."""
        behind = [other for other in self._lane_batches if other.lane > batch.lane and not other.was_parked]
        self._cursor.execute(PROBE)
        self._cursor.execute(SHORTEN_LOCK_TIMEOUT)  # until the rollback: this transaction may be the caller's
        for other in random.sample(behind, min(PROBES, len(behind))):
            self._between()
            error = self._attempt([other.first_command()], None, False)
            if error is not None and self._classify(error) in (ErrorClass.TRANSIENT, ErrorClass.TOO_SLOW):
                raise error
            if self._passed:
                break
        self._cursor.execute(PROBE_ROLLBACK)
        return self._passed or not behind

    def _park_locked(self, lane_batches: Sequence[LaneBatch], fault: Fault) -> None:
        """Park the lanes that other code holds; the others go on.

        From now on locks are waited for a shorter time: the other lanes wait for one lock timeout, not for one at each
        halving.
        """
        if len(lane_batches) == 1:
            self._park(lane_batches, LOCKED_REASON, locked=True)
            return
        if not self._timeout_shortened:
            self._cursor.execute(SHORTEN_LOCK_TIMEOUT)
            self._timeout_shortened = True
        self._cursor.execute(PROBE)
        held = locked_elsewhere(self._cursor, self._database, lane_batches)
        self._cursor.execute(PROBE_ROLLBACK)
        if not held:  # in a way that cannot be seen: an insert that is not committed yet, a parent row
            self._narrow(lane_batches, fault)
            return
        self._park(held, LOCKED_REASON, locked=True)
        parked = {id(batch) for batch in held}
        rest = [batch for batch in lane_batches if id(batch) not in parked]
        if rest:
            self._todo.append(Piece(rest))

    def _park(self, lane_batches: Sequence[LaneBatch], reason: str, *, locked: bool) -> None:
        """Park these lanes. If only a part of a lane was tried, the parts behind it are parked, too."""
        for batch in lane_batches:
            batch.decisions = []
            self._parked.append(Parked(batch.whole or batch, reason, locked))
            if batch.whole is not None:
                self._todo = [piece for piece in self._todo if piece.lane_batches[0].whole is not batch.whole]


def _is_smallest(piece: Piece, fault: Fault) -> bool:
    """Whether it is halved no further. Then only an attempt proves that it is the one at fault."""
    if len(piece.lane_batches) > 1:
        return False
    return fault.meaning is ErrorClass.LOCK_TIMEOUT or len(piece.lane_batches[0].records) == 1
