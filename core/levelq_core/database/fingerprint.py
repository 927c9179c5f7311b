"""The fingerprint of the tables: one cheap query shows whether they changed since they were read.

Rejections depend on what is remembered of the tables (bounds of columns, foreign keys, check constraints), and a
migration may have changed that. So the query runs in the transaction that rejects.
"""

from __future__ import annotations

from typing import Any

from .cursors import Cursor
from .table_names import REQUIRED

# The versions (xmin) of the catalog rows that describe the nine tables, as the search path finds them, and the names
# of the tables and columns that their foreign keys refer to: renaming those leaves the catalog rows unchanged.
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
