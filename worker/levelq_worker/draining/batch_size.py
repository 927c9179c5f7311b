"""How many commands a drain claims at most: as many as one transaction decides in LEVELQ_BATCH_SECONDS.

A batch holds its rows for as long as its transaction lasts, and a direct caller who wants one of them waits. So the
size follows what the last batches took.
"""

from __future__ import annotations

import math


class BatchSize:
    """`commands` is what to claim next, LEVELQ_BATCH_COMMANDS (`most`) at most; `seconds` is the aim.

    Where a transaction takes long whatever it holds, as on a slow disk or a far network, a smaller batch would hardly
    be shorter: the aim is at least twice what an empty transaction takes.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.commands = most
        self._most = most
        self._seconds = seconds

    def adapt(self, commands: int, seconds: float, empty_seconds: float) -> None:
        """Learn from a transaction that was committed and waited for no locks of other code."""
        if not commands:
            return
        aim = max(self._seconds, 2 * empty_seconds)
        fit = math.ceil(commands * min(2.0, aim / seconds))
        if seconds <= aim:
            fit = max(fit, self.commands)  # there may have been no more to claim
        self.commands = min(self._most, fit)

    def halve(self, commands: int) -> None:
        """Learn from a transaction over `commands` that a limit ended."""
        self.commands = max(1, commands // 2)
