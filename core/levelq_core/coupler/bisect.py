"""Run a batch inside a transaction so that what the database refuses costs only the command at fault.

One rule decides who is to blame. An error that follows one lane while others pass is that lane's: its command is
rejected if the error is provably about what the command says (blame.py), else the lane is parked. An error that every
lane gets is the database's: it is raised, and nothing is charged. A lane that was parked before says nothing of others.

Nothing is rejected by what is remembered of the tables: if they have changed since they were read, they are read again
and the attempt is repeated.

Every attempt runs in a SAVEPOINT. The command at fault is found by bisection: at most 2 log2(n) further attempts
for one among n, and one to reject it, each of lanes in sorted order, which keeps the lock order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from levelq_core.database.cursors import Cursor
from levelq_core.database.sqlstate import ErrorClass, classify, constraint_of, in_words, names_what_is_not_there
from levelq_core.domain.codec import Lane
from levelq_core.domain.rules import Decision

from .blame import proven
from .couple import couple, first_lanes
from .current_tables import CurrentTables
from .lane_batch import BatchInfo, Database, LaneBatch, Parked, RowsVanished, SchemaChanged, apart
from .locking import held_elsewhere
from .screening import Remembered, Screen
from .statements import RELEASE, ROLLBACK, SAVEPOINT

LOCKED_REASON = "other code holds its rows or its user"
ATTEMPTS = 4  # of one batch when somebody else was faster; each further one needs yet another competitor
PROBES = 16  # of other lanes, once two were found at fault and none has passed
# Once a lock was waited for in vain, whoever still holds it is found with short waits: the other lanes wait
# for one lock timeout, not for one at each halving.
_WAIT_SHORTER = """
    SELECT set_config('lock_timeout', greatest(setting::int / 20, 1)::text, true)
    FROM pg_settings WHERE name = 'lock_timeout'
"""


_PROBE, _END_PROBE = "SAVEPOINT levelq_probe", "ROLLBACK TO SAVEPOINT levelq_probe"


class Isolation:
    """One transaction's batch. `parked` collects the lanes that must wait.

    Of a parked lane, the decisions there are on its first commands stand; the others are still to be made.
    `waits`: the caller can wait for lanes that other code holds, and for the only lane of a batch; else their errors
    are raised. `checks`: the check constraints that refused commands of recent batches. `reread`: reads the tables
    again after a change; may raise SchemaError.
    `tables_changed`: afterwards, whether a statement did not fit the tables: the schema should be read again.
    """

    def __init__(
        self,
        cursor: Cursor[Any],
        database: Database,
        stamp: BatchInfo,
        *,
        parked: list[Parked],
        waits: bool = True,
        checks: Remembered | None = None,
        reread: Callable[[], Database] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._cursor = cursor
        self._tables = CurrentTables(cursor, database, reread)
        self._stamp = stamp
        self._parked = parked
        self._waits = waits
        self._between = between
        self._first: dict[bytes, Lane] = {}
        self._screen = Screen(cursor, self._tables, checks or Remembered())
        self._waited = False
        self._works: Sequence[LaneBatch] = ()
        self._tries = 0
        self.tables_changed = False
        self._passed = False  # whether a command was applied: the database works, for some lanes at least
        self._faults: list[Exception] = []  # of lanes that were not parked before
        self._unyielding: set[str | None] = set()  # unique constraints (None: missing rows) that no attempt got past

    def run(self, works: Sequence[LaneBatch]) -> None:
        """Decide all commands of these lanes, sorted here; afterwards each work has its decisions, in order.

        Raises psycopg.Error for a transient failure, and for an error that every lane gets; then nothing counts as
        decided, and the caller must roll back to where it began.
        """
        self._first = first_lanes(works)
        self._works = sorted(works, key=lambda w: w.lane)
        for part in apart(self._works):
            self._run(part)
        compared = sum(not work.was_parked for work in works)
        alone = compared == 1 and self._waits and not self.tables_changed
        if self._faults and not self._passed and not alone:
            raise self._faults[0]
        self._screen.end()

    def _run(self, works: Sequence[LaneBatch]) -> bool:
        """Decide these lanes; True if nothing had to be isolated."""
        attempt = 1
        while (error := self._attempt(works)) is not None:
            self._between()
            what = self._classify(error)
            if what is ErrorClass.ISOLATE and self._tables.refresh():
                what = ErrorClass.RETRY
            if what is not ErrorClass.RETRY or attempt == ATTEMPTS:
                self._isolate(works, error, what)
                return False
            attempt += 1
        return True

    def _classify(self, error: Exception) -> ErrorClass:
        if isinstance(error, SchemaChanged):
            return ErrorClass.RETRY
        what = ErrorClass.RETRY if isinstance(error, RowsVanished) else classify(error)
        if what is ErrorClass.RETRY and constraint_of(error) in self._unyielding:
            return ErrorClass.ISOLATE
        return what

    def _isolate(self, works: Sequence[LaneBatch], error: Exception, what: ErrorClass) -> None:
        if what is ErrorClass.LOCK_TIMEOUT and self._waits:
            self._park_locked(works, error)
        elif what is ErrorClass.ISOLATE and self._screen.add(error):
            self._run(works)  # again: what that constraint refuses is known beforehand now
        elif what is ErrorClass.ISOLATE:
            self._split(works, error, what)
        elif what is ErrorClass.RETRY and not isinstance(error, SchemaChanged):
            self._unyielding.add(constraint_of(error))  # a unique constraint or a trigger of the application's own
            self._split(works, error, ErrorClass.ISOLATE)
        else:
            raise error

    def _attempt(
        self, works: Sequence[LaneBatch], refusal: Decision | None = None, keep: bool = True
    ) -> Exception | None:
        """Decide these lanes once, or see what comes of it and take it back; the error if it failed."""
        self._tries += 1
        for work in works:
            work.reset(self._tables.database)
            work.refusal = work.refusal or refusal
        self._cursor.execute(SAVEPOINT)
        try:
            couple(self._cursor, self._tables.database, works, self._stamp, self._first, self._screen)
        except (psycopg.Error, UnicodeEncodeError, RowsVanished, SchemaChanged) as error:
            if self._cursor.connection.closed:
                raise
            self._cursor.execute(ROLLBACK)
            if isinstance(error, SchemaChanged):
                self._tables.read_again()
            return error
        self._cursor.execute(RELEASE if keep else ROLLBACK)
        self._passed = self._passed or any(d.error is None and not d.duplicate for w in works for d in w.decisions)
        return None

    def _split(self, works: Sequence[LaneBatch], error: Exception, what: ErrorClass) -> None:
        """Look for what is at fault in both halves, or blame the only command there is."""
        if len(works) > 1:
            middle = len(works) // 2
            fine = self._run(works[:middle])
            self._run_second(works[middle:], error, what, first_fine=fine)
        elif len(works[0].records) > 1:
            self._split_lane(works[0], error, what)
        elif what is ErrorClass.ISOLATE:
            self._blame(works[0], error)
        else:
            raise error

    def _run_second(self, works: Sequence[LaneBatch], error: Exception, what: ErrorClass, *, first_fine: bool) -> None:
        """Decide a second half: if the first went through, the fault is here, and no attempt need show it.

        But what can be halved no more is attempted: nothing else proves that it is the one at fault.
        """
        alone = len(works) == 1 and (what is ErrorClass.LOCK_TIMEOUT or len(works[0].records) == 1)
        if first_fine and not alone:
            self._isolate(works, error, what)
        else:
            self._run(works)

    def _split_lane(self, work: LaneBatch, error: Exception, what: ErrorClass) -> None:
        """A lane's earlier commands, then its later ones; what follows commands that must wait, waits too."""
        first, second = work.halves()
        fine = self._run([first])
        if not self._is_parked(first, work):
            self._run_second([second], error, what, first_fine=fine)
            self._is_parked(second, work)
        work.decisions = first.decisions + second.decisions

    def _is_parked(self, half: LaneBatch, work: LaneBatch) -> bool:
        """Whether half of a lane was parked; then the lane is parked in its stead."""
        for n, parked in enumerate(self._parked):
            if parked.work is half:
                self._parked[n] = parked._replace(work=work)
                return True
        return False

    def _blame(self, work: LaneBatch, error: Exception) -> None:
        """Reject a command whose own content is refused; else park its lane, if the database works for others."""
        last: Exception | None = error
        if proven(self._cursor, self._tables.database, work, error):
            last = self._attempt([work], Decision("database_error", in_words(error)))
        elif self._tries == 1:  # no bisection has tried it twice: statements may have been prepared for older tables
            last = self._attempt([work])
        if last is None:
            return
        if isinstance(last, SchemaChanged):  # the proof was of the tables as they were
            self._run([work])
            return
        if self._classify(last) is not ErrorClass.ISOLATE:
            raise last
        error = last
        self.tables_changed = self.tables_changed or names_what_is_not_there(error)
        if not work.was_parked:
            self._faults.append(error)
            if not self._passed and len(self._faults) > 1 and not self._others_pass(work):
                raise self._faults[0]
        self._park([work], in_words(error), locked=False)

    def _others_pass(self, work: LaneBatch) -> bool:
        """Whether a command can be applied in some of the lanes behind this one; True if there are none."""
        behind = [other for other in self._works if other.lane > work.lane and not other.was_parked]
        self._cursor.execute(_PROBE)
        self._cursor.execute(_WAIT_SHORTER)  # until the rollback: this transaction may be the caller's
        for other in random.sample(behind, min(PROBES, len(behind))):
            self._between()
            error = self._attempt([other.head()], None, False)
            if error is not None and self._classify(error) in (ErrorClass.TRANSIENT, ErrorClass.TOO_SLOW):
                raise error
            if self._passed:
                break
        self._cursor.execute(_END_PROBE)
        return self._passed or not behind

    def _park(self, works: Sequence[LaneBatch], reason: str, *, locked: bool) -> None:
        for work in works:
            self._parked.append(Parked(work, reason, locked))
            work.decisions = []

    def _park_locked(self, works: Sequence[LaneBatch], error: Exception) -> None:
        """Go on without the lanes that foreign code holds."""
        if len(works) == 1:
            self._park(works, LOCKED_REASON, locked=True)
            return
        if not self._waited:
            self._cursor.execute(_WAIT_SHORTER)
            self._waited = True
        self._cursor.execute(_PROBE)
        held = held_elsewhere(self._cursor, self._tables.database, works)
        self._cursor.execute(_END_PROBE)
        if held:
            self._park(held, LOCKED_REASON, locked=True)
            rest = [w for w in works if not any(w is h for h in held)]
            if rest:
                self._run(rest)
        else:  # held in a way that cannot be seen: an insert not yet committed, a parent row
            self._split(works, error, ErrorClass.LOCK_TIMEOUT)
