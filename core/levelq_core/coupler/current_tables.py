"""What one batch knows of the tables, and whether a migration has changed them since they were read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from levelq_core.database.cursors import Cursor
from levelq_core.database.fingerprint import is_current

from .lane_batch import Database


class CurrentTables:
    """The tables as one transaction knows them. `reread` reads them again; it may raise SchemaError."""

    def __init__(self, cursor: Cursor[Any], database: Database, reread: Callable[[], Database] | None) -> None:
        self.database = database
        self._cursor = cursor
        self._reread = reread
        self._compared = False

    def read_again(self) -> None:
        """Read the tables again, because they have changed."""
        if self._reread is not None:
            self.database = self._reread()

    def refresh(self) -> bool:
        """After an error, once in a batch: read the tables again if they have changed; whether they have."""
        fingerprint = self.database.schema.fingerprint
        if self._compared or not fingerprint:
            return False
        self._compared = True
        if is_current(self._cursor, fingerprint):
            return False
        self.read_again()
        return True
