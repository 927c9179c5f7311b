"""The one rule for specialization names in rows: levelq folds a name to upper case, and compares exactly.

It does not find a row that is spelt otherwise (`player`, `Player`, or with blanks around it), and would make a second
one at level 1. So `levelq db check` prints what renames such rows, workers refuse to start on them, and no second row
is made.
"""

from __future__ import annotations

from levelq_core.domain.record import Lane


def fold(name: str) -> str:
    """A name as levelq spells it."""
    return "".join(c.upper() if c.isascii() else c for c in name.strip(" \t\n\r\f\v"))


def folded(column: str) -> str:
    """The SQL expression for a name as levelq spells it; collation C, as Turkish ones fold an i differently."""
    return rf"""upper(btrim({column}, E' \t\n\r\f\x0b') COLLATE "C")"""


def misspelt_message(lane: Lane, spelt: str) -> str:
    """Why no row is made for a lane whose row is there under another spelling."""
    return (
        f"user {lane.user_id} has a row spelt {spelt!r}, expected {lane.specialization!r}: "
        "`levelq db check` prints the statements that fix it"
    )
