"""Run a batch inside a transaction so that what the database refuses costs only the command at fault.

Every attempt runs in a SAVEPOINT. Refused data is found by bisection: at most 2 log2(n) further attempts
for one bad command among n, and one to refuse it, each of lanes in sorted order, which keeps the lock order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from .codec import Lane
from .coupler import couple, first_lanes
from .cursors import Cursor
from .locking import held_elsewhere
from .rules import Decision
from .sqlstate import Meaning, classify, in_words
from .statements import RELEASE, ROLLBACK, SAVEPOINT
from .work import Database, RowsVanished, Stamp, Work

ATTEMPTS = 4  # of one batch when somebody else was faster; each further one needs yet another competitor

# Once a lock was waited for in vain, whoever still holds it is found with short waits: the other lanes wait
# for one lock timeout, not for one at each halving.
_WAIT_SHORTER = """
    SELECT set_config('lock_timeout', greatest(setting::int / 20, 1)::text, true)
    FROM pg_settings WHERE name = 'lock_timeout'
"""


class Isolation:
    """One transaction's batch. `aside` collects lanes that foreign code holds, if the caller can wait for them.

    Of a lane put aside, the decisions there are on its first commands stand; the others are still to be made.
    """

    def __init__(
        self,
        cursor: Cursor[Any],
        database: Database,
        stamp: Stamp,
        *,
        aside: list[Work] | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._cursor = cursor
        self._database = database
        self._stamp = stamp
        self._aside = aside
        self._between = between
        self._first: dict[bytes, Lane] = {}
        self._waited = False

    def run(self, works: Sequence[Work]) -> None:
        """Decide all commands of these lanes, sorted here; afterwards each work has its decisions, in order.

        Raises psycopg.Error for weather, with the transaction back where it stood.
        """
        self._first = first_lanes(works)
        self._run(sorted(works, key=lambda w: w.lane))

    def _run(self, works: Sequence[Work]) -> bool:
        """Decide these lanes; True if nothing had to be isolated."""
        attempt = 1
        while (error := self._attempt(works)) is not None:
            self._between()
            meaning = Meaning.AGAIN if isinstance(error, RowsVanished) else classify(error)
            if meaning is not Meaning.AGAIN or attempt == ATTEMPTS:
                self._isolate(works, error, meaning)
                return False
            attempt += 1
        return True

    def _isolate(self, works: Sequence[Work], error: Exception, meaning: Meaning) -> None:
        if meaning is Meaning.LOCKED and self._aside is not None:
            self._put_aside(works, error)
        elif meaning is Meaning.DATA or (meaning is Meaning.AGAIN and isinstance(error, psycopg.Error)):
            # A unique constraint of the application's own that never yields is data, too.
            self._split(works, error, meaning)
        else:
            raise error

    def _attempt(self, works: Sequence[Work], refusal: Decision | None = None) -> Exception | None:
        for work in works:
            work.reset(self._database)
            work.refusal = work.refusal or refusal
        self._cursor.execute(SAVEPOINT)
        try:
            couple(self._cursor, self._database, works, self._stamp, self._first)
        except (psycopg.Error, UnicodeEncodeError, RowsVanished) as error:
            if self._cursor.connection.closed:
                raise
            self._cursor.execute(ROLLBACK)
            return error
        self._cursor.execute(RELEASE)
        return None

    def _split(self, works: Sequence[Work], error: Exception, meaning: Meaning) -> None:
        """Refuse the one command at fault, or look for it in both halves."""
        if len(works) > 1:
            middle = len(works) // 2
            fine = self._run(works[:middle])
            self._run_second(works[middle:], error, meaning, first_fine=fine)
        elif len(works[0].records) > 1:
            self._split_lane(works[0], error, meaning)
        else:
            again = self._attempt(works, Decision("database_error", in_words(error)))
            if again is not None:
                raise again

    def _run_second(self, works: Sequence[Work], error: Exception, meaning: Meaning, *, first_fine: bool) -> None:
        """Decide a second half: if the first went through, the fault is here, and no attempt need show it.

        But what can be halved no more is attempted: nothing else proves that it is the one at fault.
        """
        alone = len(works) == 1 and (meaning is Meaning.LOCKED or len(works[0].records) == 1)
        if first_fine and not alone:
            self._isolate(works, error, meaning)
        else:
            self._run(works)

    def _split_lane(self, work: Work, error: Exception, meaning: Meaning) -> None:
        """A lane's earlier commands, then its later ones; what follows commands that must wait, waits too."""
        first, second = work.halves()
        fine = self._run([first])
        if not self._waits(first, work):
            self._run_second([second], error, meaning, first_fine=fine)
            self._waits(second, work)
        work.decisions = first.decisions + second.decisions

    def _waits(self, half: Work, work: Work) -> bool:
        """Whether half of a lane was put aside; then the lane takes its place."""
        if self._aside is None or not any(half is aside for aside in self._aside):
            return False
        self._aside[:] = [aside for aside in self._aside if aside is not half] + [work]
        return True

    def _put_aside(self, works: Sequence[Work], error: Exception) -> None:
        """Go on without the lanes that foreign code holds."""
        assert self._aside is not None
        if len(works) == 1:
            self._aside.append(works[0])
            works[0].decisions = []
            return
        if not self._waited:
            self._cursor.execute(_WAIT_SHORTER)
            self._waited = True
        self._cursor.execute("SAVEPOINT levelq_probe")
        held = held_elsewhere(self._cursor, self._database, works)
        self._cursor.execute("ROLLBACK TO SAVEPOINT levelq_probe")
        if held:
            self._aside += held
            for work in held:
                work.decisions = []
            rest = [w for w in works if not any(w is h for h in held)]
            if rest:
                self._run(rest)
        else:  # held in a way that cannot be seen: an insert not yet committed, a parent row
            self._split(works, error, Meaning.LOCKED)
