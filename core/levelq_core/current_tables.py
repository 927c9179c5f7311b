"""The tables as one batch knows them, compared with the database before anything is rejected by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cursors import Cursor
from .fingerprint import is_current
from .work import Database


class CurrentTables:
    """One transaction's. `reread`: reads the tables again, which have changed; may raise SchemaError."""

    def __init__(self, cursor: Cursor[Any], database: Database, reread: Callable[[], Database] | None) -> None:
        self.database = database
        self._cursor = cursor
        self._reread = reread
        self._compared = False

    def read_again(self) -> None:
        """They were found changed."""
        if self._reread is not None:
            self.database = self._reread()

    def are_new(self) -> bool:
        """After an error, once for a batch: whether they changed, which may be all that is wrong; reads them again."""
        fingerprint = self.database.schema.fingerprint
        if self._compared or not fingerprint:
            return False
        self._compared = True
        if is_current(self._cursor, fingerprint):
            return False
        self.read_again()
        return True
