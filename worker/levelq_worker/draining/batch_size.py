"""How many commands a drain claims at most: as many as one transaction takes in the time it is given.

A batch holds its rows for as long as its transaction lasts, and a direct caller who wants one of them waits. How many
commands fit into that time is the database's to say: it is measured, batch after batch.
"""

from __future__ import annotations

import math


class BatchSize:
    """`commands` is what to claim next; `most` (LEVELQ_BATCH_COMMANDS) is never passed.

    `seconds` (LEVELQ_BATCH_SECONDS) is the aim, unless a transaction takes long whatever it holds, as on a slow disk or
    a far network: a smaller batch would then be hardly shorter, and only slower. So the aim is never less than
    twice what an empty transaction takes.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.commands = most
        self._most = most
        self._seconds = seconds

    def took(self, commands: int, seconds: float, empty_seconds: float) -> None:
        """A transaction over so many commands was committed after so long, and nobody's locks held it up."""
        if not commands:
            return
        aim = max(self._seconds, 2 * empty_seconds)
        fit = math.ceil(commands * min(2.0, aim / seconds))
        if seconds <= aim:
            fit = max(fit, self.commands)  # there may have been no more to take
        self.commands = min(self._most, fit)

    def too_much(self, commands: int) -> None:
        """A transaction over so many commands was ended by a limit; nothing of it was done."""
        self.commands = max(1, commands // 2)
