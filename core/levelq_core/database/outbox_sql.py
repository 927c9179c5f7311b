"""The relay's statements on the outbox, whose rows stay until their commands are decided.

The coupler deletes a row in the transaction that decides its command, so every row is undecided. A row's
`pushed_at` is set, and committed, before its command is pushed: a marked row may be in its lane, an
unmarked one is not. `pushes` counts the marks.

A mark is confirmed for the relay that made it, saw the push accepted and has held the lease ever since. It
knows its own marks by the id of their transaction, the row's xmin: unlike a time, that id is never the one of
another relay's mark, however late that mark commits. Every other marked row is unconfirmed, and so is one that
is not decided in time: it may never have reached Redis, or been lost there.
"""

from __future__ import annotations

from sqlalchemy import text

from .schema import LEDGER, OUTBOX, QUARANTINE

FIRST_SECONDS, MOST_SECONDS = 5, 300  # until a pushed row is overdue: 5 s * 2 ** pushes, 300 s at most
RECENT = 10_000  # newest ledger rows that are searched for a specialization; the ledger has no index for that


def overdue_seconds(pushes: int) -> int:
    """How long after its last push a row is overdue."""
    return int(min(MOST_SECONDS, FIRST_SECONDS * 2 ** min(pushes, 20)))


_UNCONFIRMED = f"""
    pushed_at IS NOT NULL AND (xmin::text <> ALL(CAST(:confirmed_xids AS text[])) OR pushed_at < now()
        - least({MOST_SECONDS}, {FIRST_SECONDS} * power(2, least(pushes, 20))) * interval '1 second')
"""

# Lanes with an unconfirmed row, the longest waiting first, and how many of their rows are marked.
UNCONFIRMED = text(f"""
    SELECT user_id, count(*) FROM {OUTBOX} WHERE specialization = :specialization AND pushed_at IS NOT NULL
    GROUP BY user_id HAVING bool_or({_UNCONFIRMED}) ORDER BY min(pushed_at), user_id LIMIT :most
""")

# Rows never pushed, after a given one, without the lanes that are left out.
WAITING = text(f"""
    SELECT id, user_id FROM {OUTBOX}
    WHERE specialization = :specialization AND pushed_at IS NULL AND id > :after
      AND user_id <> ALL(CAST(:left_out AS bigint[]))
    ORDER BY id LIMIT :most
""")

# Mark rows before their first push. Lanes with an unconfirmed row are left out by the same snapshot that sees
# the rows: another relay's late mark between two statements would let a later row overtake an earlier one.
MARK = text(f"""
    WITH unconfirmed AS MATERIALIZED (
        SELECT user_id FROM {OUTBOX} WHERE specialization = :specialization AND {_UNCONFIRMED})
    UPDATE {OUTBOX} AS o SET pushed_at = now(), pushes = pushes + 1
    WHERE o.id = ANY(CAST(:ids AS bigint[])) AND o.user_id NOT IN (SELECT user_id FROM unconfirmed)
    RETURNING o.id, o.user_id, o.payload, o.pushes, pg_current_xact_id()::xid::text
""")

# Mark again all marked rows of these lanes, before they are pushed again.
MARK_AGAIN = text(f"""
    UPDATE {OUTBOX} SET pushed_at = now(), pushes = pushes + 1
    WHERE specialization = :specialization AND user_id = ANY(CAST(:users AS bigint[])) AND pushed_at IS NOT NULL
    RETURNING id, user_id, payload, pushes, pg_current_xact_id()::xid::text
""")

# Remove one mark of rows that were refused. A row without marks was never pushed.
UNMARK = text(f"""
    UPDATE {OUTBOX} SET pushed_at = CASE WHEN pushes > 1 THEN pushed_at END, pushes = pushes - 1
    WHERE id = ANY(CAST(:ids AS bigint[]))
""")

# Marked rows by lane, in order, after a given one.
MARKED = text(f"""
    SELECT user_id, id, payload FROM {OUTBOX}
    WHERE specialization = :specialization AND pushed_at IS NOT NULL AND (user_id, id) > (:user_id, :id)
    ORDER BY user_id, id LIMIT :most
""")

# A row that is no command of its lane goes into the quarantine.
QUARANTINE_ROW = text(f"""
    WITH gone AS (DELETE FROM {OUTBOX} WHERE id = :id RETURNING specialization, user_id, payload)
    INSERT INTO {QUARANTINE} (specialization, user_id, reason, raw, length, sha256)
    SELECT specialization, user_id, :reason, substring(payload, 1, 4096), length(payload),
           sha256(substring(payload, 1, 4096))
    FROM gone
""")

# Whether commands of this specialization came through the lanes lately; direct calls need no Redis.
IN_USE = text(f"""
    SELECT EXISTS (SELECT FROM (SELECT specialization, source FROM {LEDGER} ORDER BY id DESC LIMIT {RECENT}) AS recent
                   WHERE specialization = :specialization AND source = 'queue')
""")
