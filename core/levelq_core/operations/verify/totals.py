"""Questions about totals: what a command added, and what changed between two commands.

If each applied command added exactly its changes, and no total fell or grew between two of them or after the last, the
totals are their start plus the sum of what was applied.
"""

from __future__ import annotations

from levelq_core.database.schema import LEDGER

from .command_checks import Question
from .rows import APPLIED_ROWS, EFFECT, GAPS, LANES, ROWS, STEPS_OF_LANES

_LANES = f"SELECT count(*) FROM {LANES}"

# I2: an applied command that added something else than it asked for.
STEPS = Question(
    "I2",
    "each applied command added exactly its changes",
    APPLIED_ROWS,
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
FELL = Question(
    "I2",
    "no total fell between two commands of a lane, or after its last",
    STEPS_OF_LANES,
    _moved("fell", "<", "w.earlier", "lost"),
    hint="Other code wrote a total that it had read before levelq's commit. It must read under the row lock "
    "(SELECT ... FOR UPDATE), or add in SQL (SET total_xp = total_xp + n).",
)

# I2: a total that is higher. An application that adds causes that; so does a write that erases less than it adds.
GREW = Question(
    "I2",
    "no total grew between two commands of a lane, or after its last",
    STEPS_OF_LANES,
    _moved("grew", ">", "w.later, w.earlier", "miscounted"),
    foreign=True,
    hint="Other code may have added to it. A write of an old total that erases less than it adds looks the same.",
)

# I2: a progress row that was deleted after the lane's last command, as by an application that deletes a user. If the
# license is still there, the pair is out of step as well.
GONE = Question(
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
