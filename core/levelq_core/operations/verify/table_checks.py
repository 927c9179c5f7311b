"""Checks of the rows: does the ledger explain them, and do the two tables agree?

They read what `temp_tables` loaded for one range of users. If each applied command added exactly its changes, and no
total fell or grew between two of them or after the last, the totals are their start plus the sum of what was applied.
"""

from __future__ import annotations

from levelq_core.database.schema import LEDGER, LICENSES, PROGRESSIONS

from .report import Query
from .temp_tables import CHANGES, EFFECT, GAPS, LANES, PAIRS, ROWS

_ROWS = f"SELECT count(*) FROM {ROWS} r"
_LANES = f"SELECT count(*) FROM {LANES}"
_APPLIED = f"SELECT count(*) FROM {ROWS} r WHERE status = 'applied'"
# From each applied command to the lane's next one, or to the tables.
_STEPS = f"SELECT coalesce(sum(applied), 0) FROM {LANES}"


def _twice(table: str, checked: str) -> Query:
    return Query(
        "I2",
        "each command is in the ledger once",
        checked,
        f"""
        SELECT min(user_id), min(specialization), command_id, 'duplicated', format('%s times in the ledger', count(*))
        FROM {table} r GROUP BY command_id HAVING count(*) > 1
        """,
    )


# I2: a command that is in the ledger more than once; within a range, and, if the unique constraint is gone, anywhere.
TWICE = _twice(ROWS, _ROWS)
TWICE_ANYWHERE = _twice(LEDGER, f"SELECT count(*) FROM {LEDGER}")

# I2: an applied command that did not add exactly its changes.
STEPS = Query(
    "I2",
    "each applied command added exactly its changes",
    _APPLIED,
    f"""
    SELECT user_id, specialization, command_id, 'miscounted',
           format('changes %s, yet totals went from %s to %s', effect, before[4:8], after[4:8])
    FROM {ROWS} r
    WHERE status = 'applied' AND (after[4] - before[4], after[5] - before[5], after[6] - before[6],
        after[7] - before[7], after[8] - before[8])
        IS DISTINCT FROM (effect[1], effect[2], effect[3], effect[4], effect[5])
    """,
)

# The commands that may explain a difference: between two commands only the earlier one, after the last any of the lane.
_EXPLAINS = f"""
    SELECT command_id FROM {LEDGER}
    WHERE user_id = w.user_id AND specialization = w.specialization AND status = 'applied' AND id <= w.earlier_id
        AND id >= CASE WHEN w.later IS NULL THEN 0 ELSE w.earlier_id END AND {EFFECT}::numeric[] =
"""


def _moved(word: str, sign: str, command: str, otherwise: str) -> str:
    """The gaps in which a total fell or grew: which, by how much, when, and a command that explains it."""
    return f"""
        SELECT w.user_id, w.specialization, coalesce(twice.command_id, undone.command_id, {command}),
               CASE WHEN twice.command_id IS NOT NULL THEN 'duplicated'
                    WHEN undone.command_id IS NOT NULL THEN 'lost' ELSE '{otherwise}' END,
               format('%s between %s and %s%s', d.what, to_char(w.was_at AT TIME ZONE 'UTC', d.form),
                      to_char(w.found_at AT TIME ZONE 'UTC', d.form),
                      CASE WHEN w.later IS NULL THEN ', in the table' ELSE ', its next command' END)
        FROM (
            SELECT g.*, ARRAY(SELECT found[n] - was[n] FROM generate_series(4, 8) n) AS over,
                   ARRAY(SELECT was[n] - found[n] FROM generate_series(4, 8) n) AS under FROM {GAPS} g
        ) w
        CROSS JOIN LATERAL (
            SELECT string_agg(format('%s {word} by %s (%s to %s)', t.name, abs(w.over[t.n]), w.was[t.n + 3],
                                     w.found[t.n + 3]), ', ' ORDER BY t.n) AS what,
                   'YYYY-MM-DD HH24:MI:SS "UTC"' AS form
            FROM (VALUES (1, 'total_xp'), (2, 'completed_sessions'), (3, 'completed_projects'), (4, 'theory_hours'),
                         (5, 'practice_hours')) t(n, name) WHERE w.over[t.n] {sign} 0
        ) d
        LEFT JOIN LATERAL ({_EXPLAINS} w.over ORDER BY id DESC LIMIT 1) twice ON true
        LEFT JOIN LATERAL ({_EXPLAINS} w.under ORDER BY id DESC LIMIT 1) undone ON true
        WHERE d.what IS NOT NULL
    """


# I2: a total that is lower than the lane's last command left it: another write erased what levelq had applied. That is
# a violation even if the application writes, too.
FELL = Query(
    "I2",
    "no total fell between two commands of a lane, or after its last",
    _STEPS,
    _moved("fell", "<", "w.earlier", "lost"),
    hint="Other code wrote a total that it had read before levelq's commit. It must read under the row lock "
    "(SELECT ... FOR UPDATE), or add in SQL (SET total_xp = total_xp + n).",
)

# I2: a total that is higher. An application that adds causes that; so does a write that erases less than it adds.
GREW = Query(
    "I2",
    "no total grew between two commands of a lane, or after its last",
    _STEPS,
    _moved("grew", ">", "w.later, w.earlier", "miscounted"),
    foreign=True,
    hint="Other code may have added to it. A write of an old total that erases less than it adds looks the same.",
)

# I2: a progress row that was deleted after the lane's last command, as by an application that deletes a user. If the
# license is still there, the pair is out of step as well.
GONE = Query(
    "I2",
    "each lane with applied commands has its progress row",
    _LANES,
    f"""
    SELECT user_id, specialization, earlier, 'lost', 'there is no progress row'
    FROM {GAPS} WHERE later IS NULL AND found[4] IS NULL
    """,
    foreign=True,
    hint="If the user was deleted, run `levelq forget USER`: it clears the user's ledger rows, too.",
)

# I3: an applied command after which the two levels differed, or the highest level was below or had fallen.
LEVELS = Query(
    "I3",
    "each applied command left both levels equal, the highest not fallen",
    _APPLIED,
    f"""
    SELECT user_id, specialization, command_id, 'out of step',
           format('levels went from %s to %s', before[1:3], after[1:3])
    FROM {ROWS} r WHERE status = 'applied'
        AND (after[1] = after[2] AND after[3] >= after[2] AND after[3] >= before[3]) IS NOT TRUE
    """,
)

# I3: a pair of rows whose levels differ now, or of which one is missing, as in `levelq check`.
OUT_OF_STEP = Query(
    "I3",
    "progress level = license level (`levelq check` lists the pairs)",
    f"SELECT count(*) FROM {PAIRS}",
    f"""
    SELECT p.user_id, p.specialization, t.last_command, 'out of step',
           format('progress level %s, license level %s%s', coalesce(p.progress_level::text, 'none'),
                  coalesce(p.license_level::text, 'none'),
                  CASE WHEN t.last_id IS NOT NULL THEN ', after this command' END)
    FROM {PAIRS} p LEFT JOIN {LANES} t ON t.user_id = p.user_id AND t.specialization = p.specialization
    WHERE p.progress_level IS DISTINCT FROM p.license_level
    """,
)

# I3: a license written by levelq whose highest level is below its level, or has fallen.
HIGHEST = Query(
    "I3",
    "the highest level is not below the license level, and has not fallen",
    _LANES,
    f"""
    SELECT t.user_id, t.specialization, t.last_command, 'out of step',
           format('license level %s, highest level %s, after this command %s', p.license_level, p.highest, t.ended[3])
    FROM {LANES} t JOIN {PAIRS} p ON p.user_id = t.user_id AND p.specialization = t.specialization
    WHERE coalesce(p.highest, p.license_level) < greatest(p.license_level, t.ended[3])
    """,
    foreign=True,
)

# I4: counted from the newest, each level change in the ledger has its progression with the same levels,
# each of these begins where the one before it ended, and the newest leads to the license's level now.
# Older progressions, of before levelq's time or of a ledger since pruned, are left alone; but a lane that
# began below level 2, never having been higher, has none. Rows that change no level (an application's notes of a
# license revoked or renewed, or made at its first level) are no part of the chain. Per lane the newest that differs
# is named.
CHAIN = Query(
    "I4",
    "one progression per level change, each from where the last one led",
    f"SELECT count(*) FROM {CHANGES}",
    f"""
    WITH changes AS (
        SELECT *, row_number() OVER (PARTITION BY user_id, specialization ORDER BY id DESC) AS back FROM {CHANGES}
    ), steps AS (
        SELECT t.user_id, t.specialization, a.from_level, a.to_level, l.current_level,
               lag(a.to_level) OVER (PARTITION BY l.id ORDER BY a.id) AS was,
               row_number() OVER (PARTITION BY l.id ORDER BY a.id DESC) AS back
        FROM {LANES} t
        JOIN {LICENSES} l ON l.user_id = t.user_id AND l.specialization_type = t.specialization
            AND l.user_id > :low AND l.user_id <= :high
        JOIN {PROGRESSIONS} a ON a.user_license_id = l.id AND a.from_level <> a.to_level
    )
    SELECT DISTINCT ON (user_id, specialization) user_id, specialization, command_id, 'broken chain', detail FROM (
        SELECT c.user_id, c.specialization, c.command_id, c.back,
               (s.from_level, s.to_level) IS NOT DISTINCT FROM (c.from_level, c.to_level) AS agrees,
               CASE WHEN s.back IS NULL THEN format('no progression for its change from level %s to %s',
                        c.from_level, c.to_level)
                    WHEN (s.from_level, s.to_level) <> (c.from_level, c.to_level) THEN format(
                        'changed level %s to %s, its progression says %s to %s', c.from_level, c.to_level, s.from_level,
                        s.to_level)
                    WHEN c.back = 1 AND s.to_level <> s.current_level THEN format(
                        'the last progression leads to level %s, the license is at %s', s.to_level, s.current_level)
                    ELSE format('its progression begins at level %s, the one before ended at %s', s.from_level, s.was)
                    END AS detail
        FROM changes c JOIN {LANES} t ON t.user_id = c.user_id AND t.specialization = c.specialization
        LEFT JOIN steps s ON s.user_id = c.user_id AND s.specialization = c.specialization AND s.back = c.back
        WHERE s.back IS NULL OR (s.from_level, s.to_level) <> (c.from_level, c.to_level)
            OR (c.back = 1 AND s.to_level IS DISTINCT FROM s.current_level)
            OR (c.back < t.changes AND s.from_level IS DISTINCT FROM s.was)
        UNION ALL
        SELECT t.user_id, t.specialization, t.first_command, NULL, true,
               format('%s progressions, yet the ledger changed the level %s times', count(s.back), t.changes)
        FROM {LANES} t JOIN steps s ON s.user_id = t.user_id AND s.specialization = t.specialization
        WHERE greatest(t.started[2], t.started[3]) <= 1 AND s.from_level >= 1
        GROUP BY t.user_id, t.specialization, t.first_command, t.changes HAVING count(*) > t.changes
    ) broken ORDER BY user_id, specialization, agrees, back
    """,
    foreign=True,
)

# I6: an applied command that did not start from the levels where the lane's last one ended: something else wrote.
# (The totals between two commands are I2's.)
CONTINUITY = Query(
    "I6",
    "each applied command starts from the levels where the lane's last one ended",
    _STEPS,
    f"""
    SELECT user_id, specialization, later, 'unexplained',
           format('started from levels %s, the one before ended at %s', found[1:3], was[1:3])
    FROM {GAPS} WHERE later IS NOT NULL AND found[1:3] <> was[1:3]
    """,
    foreign=True,
)

# I6: rows whose levels are not where the lane's last applied command left them.
ENDS = Query(
    "I6",
    "the levels are where the lane's last applied command left them",
    _LANES,
    f"""
    SELECT user_id, specialization, earlier, 'unexplained',
           format('it left levels %s, the rows hold %s', was[1:3], found[1:3])
    FROM {GAPS} WHERE later IS NULL AND found[1:3] <> was[1:3]
    """,
    foreign=True,
)

# I6: a batch whose rows stand apart within a lane: another one came between. A command that is cancelled takes no lock,
# and may be rejected while a batch of its lane is written.
RUNS = Query(
    "I6",
    "nothing comes between the commands that a batch has of a lane",
    _ROWS,
    f"""
    SELECT user_id, specialization, (array_agg(command_id ORDER BY id DESC))[1], 'interleaved',
           format('other commands stand among those of batch %s', batch)
    FROM (
        SELECT id, user_id, specialization, command_id, batch,
               lag(batch) OVER (PARTITION BY user_id, specialization ORDER BY id) IS DISTINCT FROM batch AS begins
        FROM {ROWS} r WHERE NOT cancelled
    ) runs WHERE begins GROUP BY user_id, specialization, batch HAVING count(*) > 1
    """,
)

# I6: a batch that names two transactions. The page before this one (up to `before`) is read once more, because a batch
# may reach across; what was found there alone is not reported again.
BATCHES = Query(
    "I6",
    "a batch is one transaction",
    f"SELECT count(*) FROM {LEDGER} WHERE id > :before AND id <= :upto",
    f"""
    SELECT nullif(g.user_id, 0), g.specialization, g.command_id, 'interleaved',
           format('batch %s names transactions %s and %s', b.batch, b.one, b.other)
    FROM (
        SELECT batch, min(xid) AS one, max(xid) AS other, max(id) AS last FROM {LEDGER} WHERE id > :back AND id <= :upto
        GROUP BY batch HAVING min(xid) <> max(xid)
            AND (min(xid) FILTER (WHERE id <= :before) <> max(xid) FILTER (WHERE id <= :before)) IS NOT TRUE
    ) b JOIN {LEDGER} g ON g.id = b.last
    """,
)

ROW_CHECKS = (TWICE, STEPS, LEVELS, RUNS)
RANGE_CHECKS = (FELL, GREW, GONE, OUT_OF_STEP, HIGHEST, CHAIN, CONTINUITY, ENDS)
