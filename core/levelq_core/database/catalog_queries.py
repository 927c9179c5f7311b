"""Queries of PostgreSQL's catalogs, by which schema.py reads the tables."""

from __future__ import annotations

from sqlalchemy import text

from .table_names import PAIR_TRIGGERS

# Every column of the nine tables, in order, as the search path finds them: the type below its domains, the length of
# varchar(n), precision and scale of numeric(p,s), whether an insert may leave the column out, the domain that forbids
# NULL, and whether this role may write it: an application may have granted only the columns that levelq requires.
COLUMNS = text("""
    SELECT c.relname, a.attname, t.typname,
           CASE WHEN t.typname IN ('varchar', 'bpchar') AND b.typmod > 4 THEN b.typmod - 4 END,
           CASE WHEN t.typname = 'numeric' AND b.typmod > 4 THEN (b.typmod - 4) >> 16 END,
           CASE WHEN t.typname = 'numeric' AND b.typmod > 4 THEN (((b.typmod - 4) & 2047) # 1024) - 1024 END,
           NOT a.attnotnull AND b.refuses IS NULL, a.atthasdef AND a.attgenerated = '',
           a.atthasdef OR a.attidentity <> '' OR b.has_default, a.attgenerated <> '', a.attidentity = 'a',
           b.refuses::text, t.typtype = 'e', has_column_privilege(c.oid, a.attnum, 'INSERT'),
           has_column_privilege(c.oid, a.attnum, 'UPDATE')
    FROM unnest(CAST(:tables AS text[])) WITH ORDINALITY AS wanted(name, n)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    CROSS JOIN LATERAL (
        WITH RECURSIVE base(type, typmod, depth, refuses, has_default) AS (
            SELECT a.atttypid, a.atttypmod, 0, NULL::regtype, false
            UNION ALL
            SELECT d.typbasetype, greatest(base.typmod, d.typtypmod), depth + 1,
                   CASE WHEN d.typnotnull THEN d.oid::regtype ELSE base.refuses END,
                   base.has_default OR d.typdefault IS NOT NULL
            FROM base JOIN pg_type d ON d.oid = base.type AND d.typtype = 'd'
        )
        SELECT type, typmod, refuses, has_default FROM base ORDER BY depth DESC LIMIT 1
    ) b
    JOIN pg_type t ON t.oid = b.type
    ORDER BY wanted.n, a.attnum
""")

# The column sets that a valid, unconditional unique index covers; a constraint is such an index.
UNIQUE = text("""
    SELECT c.relname, array_agg(a.attname::text ORDER BY k.n)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
        AND i.indpred IS NULL AND i.indexprs IS NULL
    JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, n) ON true
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    GROUP BY c.relname, i.indexrelid
""")

# The foreign keys of the columns that name a user: whose rows an insert will want to share-lock. Not those that are
# NOT ENFORCED (PostgreSQL 18), nor those that PostgreSQL adds beside one for each partition of the users.
PARENTS = text("""
    SELECT c.relname, f.conname, f.confrelid::regclass::text, quote_ident(p.attname)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' AND cardinality(f.conkey) = 1
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = f.conkey[1]
        AND a.attname IN ('student_id', 'user_id', 'advanced_by')
    JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = f.confkey[1]
    WHERE (to_jsonb(f) ->> 'conenforced') IS DISTINCT FROM 'false'
        AND NOT EXISTS (SELECT FROM pg_constraint whole WHERE whole.oid = f.conparentid AND whole.conrelid = f.conrelid)
""")

# Constraints that would be checked at COMMIT, where the command at fault cannot be found. Not levelq's own triggers,
# since levelq leaves both levels equal: if they refuse a COMMIT all the same, the next attempt checks all before.
DEFERRED = text(f"""
    SELECT quote_ident(n.nspname) || '.' || quote_ident(f.conname)
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_constraint f ON f.conrelid = c.oid AND f.condeferred
        AND f.conname NOT IN {PAIR_TRIGGERS}
    JOIN pg_namespace n ON n.oid = f.connamespace
    ORDER BY 1
""")

# The names that are not tables, and what they are. A partitioned table is a table.
NOT_TABLES = text("""
    SELECT wanted.name, CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
        WHEN 'f' THEN 'a foreign table' ELSE 'no table' END AS kind
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name) AND c.relkind NOT IN ('r', 'p')
""")

# The schemas that have a table of such a name. The search path also leaves out a schema that this role may not use.
IN_SCHEMAS = text("""
    SELECT c.relname, array_agg(quote_ident(n.nspname) ORDER BY n.nspname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY(CAST(:tables AS text[])) AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
    GROUP BY c.relname
""")
