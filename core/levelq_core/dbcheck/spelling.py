"""Rows that levelq would not find: what merges those of one lane, and what renames the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection

from levelq_core.catalog import Catalog
from levelq_core.schema import PROGRESS
from levelq_core.spelling import NAMES, folded, misspelt, twins

from .columns import Facts
from .finding import Finding
from .rows import merged


def check_spelling(
    connection: Connection, table: str, facts: Mapping[str, Facts], catalog: Catalog
) -> Iterator[Finding]:
    """Yield the misspelt rows of a table as one finding."""
    user, name = NAMES[table]
    for found in misspelt(connection, catalog, [table]):
        problem = f"{found}: levelq would not find them and make second rows at level 1; workers refuse to start"
        right = folded(name)
        names = ", ".join(f"'{name}'" for name in catalog)
        rename = f"UPDATE {table} SET {name} = {right} WHERE {name} <> {right} AND {right} IN ({names});"
        mend: tuple[str, ...] = (rename,)
        pairs = twins(connection, catalog, table)
        if pairs:
            number = "1 pair" if pairs == 1 else f"{pairs:,} pairs"
            problem += (
                f"; {number} of user and specialization with several rows: look at them first, "
                "the most advanced will be kept"
            )
            second = "total_xp" if table == PROGRESS else "max_achieved_level"
            order = f"current_level DESC NULLS LAST, {second} DESC NULLS LAST, id"
            mend = (*merged(table, f"{user}, {right}", order, facts, where=f"{right} IN ({names})"), rename)
        yield Finding("error", problem, mend)
