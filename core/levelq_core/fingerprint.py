"""Whether the tables are still as they were read: one cheap question, asked before anything is rejected.

Rejections rest on what was remembered of the tables: bounds of columns, foreign keys, check constraints. A migration
may have changed them since. The answer holds when it is given, inside the transaction that rejects.
"""

from __future__ import annotations

from typing import Any

from .cursors import Cursor
from .table_names import REQUIRED

# The versions (xmin) of the catalog rows that describe the seven tables, as the search path finds them, and the names
# of what their foreign keys lead to, which may be renamed without a change of theirs.
FINGERPRINT = f"""
    WITH named AS (SELECT to_regclass(name)::oid AS oid FROM unnest('{{{",".join(REQUIRED)}}}'::text[]) AS name)
    SELECT md5(string_agg(part, ' ' ORDER BY part)) FROM (
        SELECT concat_ws(':', 'a', a.attrelid, a.attnum, a.xmin) AS part
        FROM named JOIN pg_attribute a ON a.attrelid = named.oid AND a.attnum > 0
        UNION ALL
        SELECT concat_ws(':', 'c', c.oid, c.xmin, nullif(c.confrelid, 0)::regclass, t.attname)
        FROM named JOIN pg_constraint c ON c.conrelid = named.oid
        LEFT JOIN pg_attribute t ON t.attrelid = c.confrelid AND t.attnum = c.confkey[1]
        UNION ALL
        SELECT concat_ws(':', 'i', i.indexrelid, i.xmin) FROM named JOIN pg_index i ON i.indrelid = named.oid
    ) AS parts
"""


def is_current(cursor: Cursor[Any], fingerprint: str) -> bool:
    """Whether the tables have this fingerprint now. Raises psycopg.Error."""
    return cursor.execute(FINGERPRINT).fetchone() == (fingerprint,)
