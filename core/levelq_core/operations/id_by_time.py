"""Find the rows of an append-only table that are older than a time, without an index on the time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, text


def last_id_before(connection: Connection, table: str, moment: str, before: datetime) -> int:
    """The id up to which rows are older than `before` by the column `moment`, found by bisection over the primary key.

    Ids and times ascend together to within the length of a transaction: rows near the bound may lie on either side.
    """
    first, last = connection.execute(text(f"SELECT min(id), max(id) FROM {table}")).one()
    if first is None:
        return 0
    low, high = int(first) - 1, int(last)
    while low < high:
        middle = (low + high + 1) // 2
        found = connection.execute(
            text(f"SELECT id, {moment} < :before FROM {table} WHERE id <= :middle ORDER BY id DESC LIMIT 1"),
            {"middle": middle, "before": before},
        ).one_or_none()
        if found is None or found[1]:
            low = middle
        else:
            high = int(found[0]) - 1
    return low
