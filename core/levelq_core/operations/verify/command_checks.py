"""Checks of commands: is each where it must be, decided in its turn, and acknowledged rightly?"""

from __future__ import annotations

from levelq_core.database.schema import LEDGER, OUTBOX, QUARANTINE

from .report import Query
from .temp_tables import HISTORY, IDS, LATER, SENT, STANDING

# I1: a command that was acknowledged and is nowhere.
LOST = Query(
    "I1",
    "acknowledged commands are in the ledger, a lane or the outbox",
    f"SELECT count(*) FROM {SENT} WHERE due",
    f"""
    SELECT user_id, specialization, command_id, 'lost', 'acknowledged, yet neither in the ledger nor waiting'
    FROM {SENT} WHERE due AND ledger_id IS NULL AND NOT in_lane AND NOT in_outbox
    """,
)

# I1: a decision on a command that was never sent, that was refused, or that had other content. Direct
# calls need not be recorded; nor what was decided before the recording began. A page of the ledger at a time.
UNEXPECTED = Query(
    "I1",
    "decided commands are commands that were sent",
    f"SELECT count(*) FROM {LEDGER} WHERE id > :before AND id <= :upto",
    f"""
    SELECT nullif(g.user_id, 0), g.specialization, g.command_id, 'unexpected',
           CASE WHEN i.command_id IS NULL THEN 'decided, but never sent'
                WHEN NOT i.possible THEN 'decided, though every send of it was refused'
                ELSE 'decided for another lane or with other content than was sent' END
    FROM {LEDGER} g LEFT JOIN {IDS} i ON i.command_id = g.command_id
    WHERE g.id > :before AND g.id <= :upto
        AND CASE WHEN i.command_id IS NULL
               THEN NOT :partial AND g.source <> 'direct' AND g.applied_at >= :begun
               ELSE NOT i.possible OR (g.user_id <> 0 AND NOT EXISTS (
                    SELECT FROM {HISTORY} s WHERE s.command_id = g.command_id AND s.digest = g.digest
                        AND s.user_id = g.user_id AND s.specialization = g.specialization)) END
    """,
)

# Allowed: the producer got no answer, and the command was decided.
RECOVERED = Query(
    "I1",
    "recovered: decided, though the producer never got an answer",
    f"SELECT count(*) FROM {SENT} WHERE possible AND NOT acknowledged",
    f"""
    SELECT user_id, specialization, command_id, 'recovered', 'its sends stayed without an answer'
    FROM {SENT} WHERE possible AND NOT acknowledged AND ledger_id IS NOT NULL
    """,
    note=True,
)

# I1, at rest: an outbox row that is not decided.
OUTBOX_EMPTY = Query(
    "I1",
    "at rest: the outbox is empty",
    f"SELECT count(*) FROM {OUTBOX}",
    f"SELECT user_id, specialization, command_id, 'waiting', 'still in the outbox' FROM {OUTBOX}",
)

# I5: among the commands of one lane whose order is known, one that was decided before an earlier one; an
# earlier one that still waits counts as decided last. Cancelling decides commands in any order.
ORDER = Query(
    "I5",
    "commands of a lane were decided in the order they were sent",
    f"SELECT count(*) FROM {SENT} WHERE ordered AND (ledger_id IS NOT NULL OR in_lane)",
    f"""
    SELECT user_id, specialization, command_id, 'reordered', 'decided before a command that was sent before it'
    FROM (
        SELECT *, max(order_id) OVER (PARTITION BY source, user_id, specialization ORDER BY seq
                                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS latest
        FROM (SELECT *, coalesce(ledger_id, 9223372036854775807) AS order_id FROM {SENT}
              WHERE ordered AND (ledger_id IS NOT NULL OR in_lane)) known
    ) sent WHERE latest > order_id
    """,
)

_LEFT = f"""
    {STANDING} e WHERE NOT EXISTS (
        SELECT FROM {LATER} a WHERE a.sha256 = e.sha256 AND a.partition = e.partition AND a.lane = e.lane)
"""

# Not EXISTS, for which the planner may hash a whole table.
_UNDECIDED = f"""
    (SELECT true FROM {LEDGER} g WHERE g.command_id = e.command_id LIMIT 1) IS NULL
        AND (SELECT true FROM {QUARANTINE} q WHERE q.sha256 = e.sha256 LIMIT 1) IS NULL
"""

# I8: an entry that stood in its lane, undecided, and disappeared without being in the ledger or the quarantine.
REMOVED = Query(
    "I8",
    "entries that left a lane, or were decided, are in the ledger or the quarantine",
    f"SELECT count(*) FROM {_LEFT}",
    f"""
    SELECT e.user_id, e.specialization, e.command_id, 'lost',
           format('removed from lane %s of %s without being in the ledger or the quarantine',
                  encode(e.lane, 'escape'), e.partition)
    FROM {_LEFT}
        AND {_UNDECIDED}
    """,
)

# I8: an acknowledgement that had an effect although the lane's last claim was another's, or once more.
STALE = Query(
    "I8",
    "recorded acknowledgements had effect once, under the lane's last claim",
    f"SELECT count(*) FROM {HISTORY} WHERE removed IS NOT NULL",
    f"""
    SELECT CASE WHEN t.lane ~ '^[1-9][0-9]{{0,17}}$' THEN t.lane::bigint END, split_part(t.partition, ':', 1),
           NULL::uuid, 'stale',
           format('acknowledgement %s removed %s entries of lane %s; %s', t.token, t.removed, t.lane,
                  CASE WHEN c.token = t.token THEN 'it had effect before' ELSE 'the claim was ' || c.token END)
    FROM (
        SELECT *, max(seq) FILTER (WHERE removed IS NULL) OVER lane AS claim,
               count(*) FILTER (WHERE removed >= 0) OVER (lane_token ROWS UNBOUNDED PRECEDING) AS effects
        FROM {HISTORY} WHERE token IS NOT NULL
        WINDOW lane AS (PARTITION BY source, partition, lane ORDER BY seq ROWS UNBOUNDED PRECEDING),
               lane_token AS (PARTITION BY source, partition, lane, token ORDER BY seq)
    ) t JOIN {HISTORY} c ON c.source = t.source AND c.seq = t.claim AND c.partition = t.partition AND c.lane = t.lane
    WHERE t.removed >= 0 AND (c.token <> t.token OR t.effects > 1)
    """,
)

# The lanes that hold something undecided, a page at a time.
UNDECIDED = f"""
    SELECT DISTINCT partition, lane FROM {STANDING} e
    WHERE (partition, lane) > (:partition, :lane)
        AND {_UNDECIDED}
    ORDER BY partition, lane LIMIT :page
"""

SENT_CHECKS = (LOST, RECOVERED, ORDER)
