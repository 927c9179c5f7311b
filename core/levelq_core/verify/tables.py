"""Questions about the rows: does the ledger explain them, and do the two tables agree?

Rows of user 0 are those of users who were forgotten, whose tables' rows are gone (see erasing.py).
Each has a name and one sentence and is set-based. Arrays in the ledger are those of `levelq_core.Totals`,
counted from 1: progress level, license level, highest level, then the five totals.
"""

from __future__ import annotations

from ..schema import LEDGER, LICENSES, PROGRESS, PROGRESSIONS
from .loading import LANES
from .questions import Question

_APPLIED = f"SELECT count(*) FROM {LEDGER} WHERE status = 'applied'"
_LANES = f"SELECT count(*) FROM {LANES}"
_PAIR = f"""
    LEFT JOIN {PROGRESS} p ON p.student_id = t.user_id AND p.specialization_id = t.specialization
    LEFT JOIN {LICENSES} l ON l.user_id = t.user_id AND l.specialization_type = t.specialization
"""

# What each applied command did to the five totals. A Reset sets them, so it adds what takes them there from where it
# found them: the sums then hold piece by piece, from one Reset to the next.
_NUMBERS = ("xp", "sessions", "projects", "theory_hours", "practice_hours")
_EFFECT = [f"({name} - CASE kind WHEN 'reset' THEN before[{n}] ELSE 0 END)" for n, name in enumerate(_NUMBERS, 4)]
_EFFECTS, _SUMS = ", ".join(_EFFECT), ", ".join(f"sum{effect}" for effect in _EFFECT)

# What the ledger says of each lane: its first and last applied command, the sums of the changes.
FILL_LANES = f"""
    INSERT INTO {LANES}
    SELECT user_id, specialization, min(id), max(id), {_SUMS},
           count(*) FILTER (WHERE from_level <> to_level)
    FROM {LEDGER} WHERE status = 'applied' AND user_id <> 0 GROUP BY user_id, specialization
"""

# I2: a command that is in the ledger more than once (its unique constraint is gone).
TWICE = Question(
    "I2",
    "each command is in the ledger once",
    f"SELECT count(*) FROM {LEDGER}",
    f"""
    SELECT min(user_id), min(specialization), command_id, 'duplicated', format('%s times in the ledger', count(*))
    FROM {LEDGER} GROUP BY command_id HAVING count(*) > 1
    """,
)

# I2: an applied command that added something else than it asked for.
STEPS = Question(
    "I2",
    "each applied command added exactly its changes",
    _APPLIED,
    f"""
    SELECT user_id, specialization, command_id, 'miscounted',
           format('changes %s, yet totals went from %s to %s',
                  ARRAY[{_EFFECTS}], before[4:8], after[4:8])
    FROM {LEDGER}
    WHERE status = 'applied' AND (after[4] - before[4], after[5] - before[5], after[6] - before[6],
        after[7] - before[7], after[8] - before[8]) IS DISTINCT FROM ({_EFFECTS})
    """,
)

_CHANGES = f"""
    SELECT c.command_id FROM {LEDGER} c
    WHERE c.user_id = w.user_id AND c.specialization = w.specialization AND c.status = 'applied'
        AND ARRAY[{_EFFECTS}]::numeric[] =
"""

# I2: a row whose totals, without their fractions, are not what its lane started from and the sums. If one applied
# command makes the difference, it is named: it took effect twice, or not at all.
TOTALS = Question(
    "I2",
    "totals = start + the sum of what was applied",
    _LANES,
    f"""
    SELECT w.user_id, w.specialization, coalesce(twice.command_id, undone.command_id, w.command_id),
           CASE WHEN twice.command_id IS NOT NULL THEN 'duplicated'
                WHEN w.now IS NULL OR undone.command_id IS NOT NULL THEN 'lost' ELSE 'miscounted' END,
           CASE WHEN w.now IS NULL THEN 'there is no progress row'
                ELSE format('totals are %s, the ledger adds up to %s', w.now, w.explained) END
    FROM (
        SELECT t.user_id, t.specialization, g.command_id, array_agg(a.explained ORDER BY a.n) AS explained,
               CASE WHEN count(a.now) > 0 THEN array_agg(a.now ORDER BY a.n) END AS now,
               array_agg(a.now - a.explained ORDER BY a.n) AS over, array_agg(a.explained - a.now ORDER BY a.n) AS under
        FROM {LANES} t JOIN {LEDGER} f ON f.id = t.first_id JOIN {LEDGER} g ON g.id = t.last_id
        LEFT JOIN {PROGRESS} p ON p.student_id = t.user_id AND p.specialization_id = t.specialization
        CROSS JOIN LATERAL (VALUES (1, f.before[4] + t.xp, p.total_xp::numeric),
            (2, f.before[5] + t.sessions, p.completed_sessions), (3, f.before[6] + t.projects, p.completed_projects),
            (4, f.before[7] + t.theory, p.theory_hours_completed),
            (5, f.before[8] + t.practice, p.practice_hours_completed)) AS v(n, explained, found)
        CROSS JOIN LATERAL (SELECT v.n, v.explained,
            CASE WHEN p.student_id IS NOT NULL THEN floor(coalesce(v.found, 0)) END AS now) a
        GROUP BY t.user_id, t.specialization, g.command_id
        HAVING bool_or(a.now IS DISTINCT FROM a.explained)
    ) w
    LEFT JOIN LATERAL ({_CHANGES} w.over ORDER BY c.id DESC LIMIT 1) twice ON true
    LEFT JOIN LATERAL ({_CHANGES} w.under ORDER BY c.id DESC LIMIT 1) undone ON true
    """,
    foreign=True,
)

# I3: an applied command after which the two levels differed, or the highest level was below or had fallen.
LEVELS = Question(
    "I3",
    "each applied command left both levels equal, the highest not fallen",
    _APPLIED,
    f"""
    SELECT user_id, specialization, command_id, 'out of step',
           format('levels went from %s to %s', before[1:3], after[1:3])
    FROM {LEDGER} WHERE status = 'applied'
        AND (after[1] = after[2] AND after[3] >= after[2] AND after[3] >= before[3]) IS NOT TRUE
    """,
)

# I3: a pair of rows, written by levelq, whose levels differ now, or whose highest level is below or fell.
PAIRS = Question(
    "I3",
    "progress level = license level, highest level not below and not fallen",
    _LANES,
    f"""
    SELECT t.user_id, t.specialization, g.command_id, 'out of step',
           format('progress level %s, license level %s, highest level %s, after this command %s',
                  coalesce(p.current_level::text, 'none'), coalesce(l.current_level::text, 'none'),
                  coalesce(l.max_achieved_level::text, 'none'), g.after[3])
    FROM {LANES} t JOIN {LEDGER} g ON g.id = t.last_id {_PAIR}
    WHERE p.current_level IS DISTINCT FROM l.current_level
        OR coalesce(l.max_achieved_level, l.current_level) < greatest(l.current_level, g.after[3])
    """,
    foreign=True,
)

# Pairs that levelq has not written, or no longer remembers, are not its to answer for.
OTHER_PAIRS = Question(
    "I3",
    "pairs of rows that the ledger does not know: out of step (`levelq check` mends them)",
    f"""
    SELECT count(*) FROM {PROGRESS} p WHERE NOT EXISTS (
        SELECT FROM {LANES} t WHERE t.user_id = p.student_id AND t.specialization = p.specialization_id)
    """,
    f"""
    SELECT coalesce(p.student_id, l.user_id)::bigint, coalesce(p.specialization_id, l.specialization_type), NULL::uuid,
           'out of step', format('progress level %s, license level %s', p.current_level, l.current_level)
    FROM {PROGRESS} p FULL JOIN {LICENSES} l
        ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    WHERE p.current_level IS DISTINCT FROM l.current_level AND NOT EXISTS (
        SELECT FROM {LANES} t WHERE t.user_id = coalesce(p.student_id, l.user_id)
            AND t.specialization = coalesce(p.specialization_id, l.specialization_type))
    """,
    note=True,
)

# I4: counted from the newest, each level change in the ledger has its progression with the same levels,
# each of these begins where the one before it ended, and the newest leads to the license's level now.
# Older progressions, of before levelq's time or of a ledger since pruned, are left alone; but a lane that
# began below level 2, never having been higher, has none. Per lane the newest that differs is named.
CHAIN = Question(
    "I4",
    "one progression per level change, each from where the last one led",
    f"SELECT coalesce(sum(changes), 0) FROM {LANES}",
    f"""
    WITH changes AS (
        SELECT user_id, specialization, command_id, from_level, to_level,
               row_number() OVER (PARTITION BY user_id, specialization ORDER BY id DESC) AS back
        FROM {LEDGER} WHERE status = 'applied' AND user_id <> 0 AND from_level <> to_level
    ), steps AS (
        SELECT l.user_id, l.specialization_type AS specialization, a.from_level, a.to_level, l.current_level,
               lag(a.to_level) OVER (PARTITION BY l.id ORDER BY a.id) AS was,
               row_number() OVER (PARTITION BY l.id ORDER BY a.id DESC) AS back
        FROM {PROGRESSIONS} a JOIN {LICENSES} l ON l.id = a.user_license_id
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
        SELECT t.user_id, t.specialization, f.command_id, NULL, true,
               format('%s progressions, yet the ledger changed the level %s times', count(s.back), t.changes)
        FROM {LANES} t JOIN {LEDGER} f ON f.id = t.first_id
        JOIN steps s ON s.user_id = t.user_id AND s.specialization = t.specialization
        WHERE greatest(f.before[2], f.before[3]) <= 1
        GROUP BY t.user_id, t.specialization, f.command_id, t.changes HAVING count(*) > t.changes
    ) broken ORDER BY user_id, specialization, agrees, back
    """,
    foreign=True,
)

# I6: an applied command that did not start from where the lane's last one ended: something else wrote.
CONTINUITY = Question(
    "I6",
    "each applied command starts from where the lane's last one ended",
    _APPLIED,
    f"""
    SELECT user_id, specialization, command_id, 'unexplained',
           format('started from %s, the one before ended at %s', before, was)
    FROM (
        SELECT user_id, specialization, command_id, before, lag(after) OVER lane AS was FROM {LEDGER}
        WHERE status = 'applied' AND user_id <> 0 WINDOW lane AS (PARTITION BY user_id, specialization ORDER BY id)
    ) steps WHERE before <> was
    """,
    foreign=True,
)

# I6: rows whose levels are not where the lane's last applied command left them. (Their totals are I2's.)
ENDS = Question(
    "I6",
    "the levels are where the lane's last applied command left them",
    _LANES,
    f"""
    SELECT t.user_id, t.specialization, g.command_id, 'unexplained',
           format('it left levels %s, the rows hold {{%s,%s,%s}}', g.after[1:3], p.current_level, l.current_level,
                  l.max_achieved_level)
    FROM {LANES} t JOIN {LEDGER} g ON g.id = t.last_id {_PAIR}
    WHERE (coalesce(p.current_level, 1), coalesce(l.current_level, 1),
           coalesce(l.max_achieved_level, l.current_level, 1)) IS DISTINCT FROM (g.after[1], g.after[2], g.after[3])
    """,
    foreign=True,
)

# I6: a batch whose rows carry two transactions, or stand apart within a lane: another one came between. A command that
# is cancelled takes no lock, and may be rejected while a batch of its lane is written.
BATCHES = Question(
    "I6",
    "a batch is one transaction, and nothing comes between its commands of a lane",
    f"SELECT count(*) FROM {LEDGER}",
    f"""
    SELECT user_id, specialization, (array_agg(command_id ORDER BY id DESC))[1], 'interleaved',
           CASE WHEN min(xid) <> max(xid)
                THEN format('batch %s names transactions %s and %s', batch, min(xid), max(xid))
                ELSE format('other commands stand among those of batch %s', batch) END
    FROM (
        SELECT id, user_id, specialization, command_id, batch, xid,
               lag(batch) OVER (PARTITION BY user_id, specialization ORDER BY id) IS DISTINCT FROM batch AS begins
        FROM {LEDGER} WHERE user_id <> 0 AND error IS DISTINCT FROM 'cancelled'
    ) runs
    GROUP BY user_id, specialization, batch HAVING count(*) FILTER (WHERE begins) > 1 OR min(xid) <> max(xid)
    """,
)

QUESTIONS = (TWICE, STEPS, TOTALS, LEVELS, PAIRS, OTHER_PAIRS, CHAIN, CONTINUITY, ENDS, BATCHES)
