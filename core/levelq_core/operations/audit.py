"""The audit: one line for each command by which an operator changed something, written in that transaction.

A line holds who did what to which target, from where, and with which result; see docs/reference/tables.md.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from levelq_core.database.table_names import AUDIT


def record(
    connection: Connection,
    action: str,
    target: str,
    detail: Mapping[str, Any] | None = None,
    *,
    actor: str | None = None,
) -> int:
    """Write a line in the caller's transaction; returns its id. Raises DBAPIError.

    `action`: the command's name. `target`: what it was done to; a user is named by `user_target`, so that the line can
    be cleared when the user is forgotten. `detail`: numbers and names, as JSON. `actor`: who acts, such as a login of
    the web console; the account on this host unless given. The database user is added to it. The origin is this host
    and program.
    """
    values = {
        "account": actor or account(),
        "origin": f"{socket.gethostname()} {_program()}",
        "action": action,
        "target": target,
        "detail": None if detail is None else json.dumps(detail),
    }
    return int(connection.execute(_INSERT, values).scalar_one())


class RunLine:
    """The one line of a command that may take several transactions. Arguments as those of `record`."""

    def __init__(self, action: str, target: str, *, actor: str | None = None) -> None:
        self._action, self._target, self._actor = action, target, actor
        self._line: int | None = None

    def write(self, connection: Connection, detail: Mapping[str, Any]) -> None:
        """Note what is done so far: in a new line, or in that of an earlier transaction. Raises DBAPIError."""
        values = {"id": self._line, "detail": json.dumps(detail)}
        if self._line is None or not connection.execute(_UPDATE, values).rowcount:  # none: it was rolled back
            self._line = record(connection, self._action, self._target, detail, actor=self._actor)


def user_target(user_id: int, specialization: str | None = None) -> str:
    """How a line names a user, or a user's lane: `user 42`, `user 42 PLAYER`."""
    return f"user {user_id}" if specialization is None else f"user {user_id} {specialization}"


def forget_user(connection: Connection, user_id: int) -> int:
    """Name user 0 in the lines about this user; returns how many there were."""
    return connection.execute(_FORGET, {"target": user_target(user_id), "forgotten": user_target(0)}).rowcount


def account() -> str:
    """The account of this process, its number if it has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in a container
        return str(os.getuid())


def _program() -> str:
    started = Path(sys.argv[0])
    return started.parent.name if started.name == "__main__.py" else started.name


_INSERT = text(f"""
    INSERT INTO {AUDIT} (at, actor, origin, action, target, detail)
    VALUES (now(), CAST(:account AS text) || ' as ' || session_user, :origin, :action, :target, CAST(:detail AS jsonb))
    RETURNING id
""")

_UPDATE = text(f"UPDATE {AUDIT} SET detail = CAST(:detail AS jsonb) WHERE id = :id")

# `user 4` must not match `user 42`.
_FORGET = text(f"""
    UPDATE {AUDIT} SET target = :forgotten || substr(target, length(:target) + 1)
    WHERE target = :target OR starts_with(target, :target || ' ')
""")
