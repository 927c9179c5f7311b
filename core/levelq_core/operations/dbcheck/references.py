"""The foreign key from progressions to licenses, which must not keep an application from deleting its users."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PROGRESSIONS

from .finding import Finding


def check_cascade(connection: Connection) -> Iterator[Finding]:
    """Yield the foreign key if a license that has progressions cannot be deleted.

    An application's own foreign key is reported only if it stops a cascade of the application.
    """
    for constraint, column, licenses, key in connection.execute(_REFUSING).all():
        problem = (
            f"{PROGRESSIONS}.{column}: its foreign key {constraint} has no ON DELETE CASCADE: a license that has "
            "progressions cannot be deleted, nor a user whose deletion reaches it by a cascade"
        )
        fix = (
            f"ALTER TABLE {PROGRESSIONS} DROP CONSTRAINT {constraint}, ADD CONSTRAINT {constraint} "
            f"FOREIGN KEY ({column}) REFERENCES {licenses} ({key}) ON DELETE CASCADE;"
        )
        yield Finding("warning", problem, (fix,))


# levelq's own table is recognized by its index; an application's counts if its licenses are deleted by a cascade.
_REFUSING = text(f"""
    SELECT quote_ident(f.conname), quote_ident(a.attname), f.confrelid::regclass::text, quote_ident(k.attname)
    FROM pg_constraint f
    JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
    JOIN pg_attribute k ON k.attrelid = f.confrelid AND k.attnum = f.confkey[1]
    WHERE f.contype = 'f' AND f.conrelid = to_regclass('{PROGRESSIONS}') AND f.confrelid = to_regclass('{LICENSES}')
        AND cardinality(f.conkey) = 1 AND f.confdeltype IN ('a', 'r')
        AND (EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                     WHERE i.indrelid = f.conrelid AND c.relname = '{PROGRESSIONS}_license')
             OR EXISTS (SELECT FROM pg_constraint u
                        WHERE u.conrelid = f.confrelid AND u.contype = 'f' AND u.confdeltype = 'c'))
""")
