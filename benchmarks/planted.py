"""An application's tables from before levelq, with faults planted of every kind that `levelq adopt` finds.

Two specializations for each user; the faults are in PLAYER of every n-th user, one kind after the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

# int4, varchar, naive times, columns of its own, a trigger, no unique constraints: so several rows of a pair can be.
_TABLES = """
CREATE TABLE users (id int PRIMARY KEY);
CREATE TABLE specialization_progress (
    id serial PRIMARY KEY, student_id int NOT NULL REFERENCES users, specialization_id varchar(50) NOT NULL,
    current_level int, total_xp int, completed_sessions int, completed_projects int, theory_hours_completed int,
    practice_hours_completed int, last_activity timestamp, created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp, note varchar(20) NOT NULL DEFAULT 'kept');
CREATE TABLE user_licenses (
    id serial PRIMARY KEY, user_id int NOT NULL, specialization_type varchar(20) NOT NULL, current_level int NOT NULL,
    max_achieved_level int, started_at timestamp NOT NULL DEFAULT now(), last_advanced_at timestamp,
    is_active boolean NOT NULL DEFAULT true);
CREATE TABLE license_progressions (
    id serial PRIMARY KEY, user_license_id int NOT NULL REFERENCES user_licenses, from_level int NOT NULL,
    to_level int NOT NULL, advanced_by int, advancement_reason varchar(255) NOT NULL DEFAULT '',
    requirements_met text, advanced_at timestamp NOT NULL DEFAULT now());
CREATE TABLE certificates (id serial PRIMARY KEY, license_id int NOT NULL REFERENCES user_licenses);
CREATE INDEX ON license_progressions (user_license_id);
CREATE INDEX ON certificates (license_id);
CREATE TABLE changes (at timestamptz DEFAULT now(), student_id int, old_level int, new_level int);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO changes (student_id, old_level, new_level)
        VALUES (NEW.student_id, OLD.current_level, NEW.current_level);
    RETURN NEW;
END $$;
CREATE TRIGGER note_change AFTER UPDATE OF current_level ON specialization_progress FOR EACH ROW
    WHEN (OLD.current_level IS DISTINCT FROM NEW.current_level) EXECUTE FUNCTION note_change();
"""

# Pairs in step: level 2, and 1,500 of experience.
_ROWS = """
INSERT INTO users SELECT generate_series(1, {users});
INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp)
    SELECT n, name, 2, 1500 FROM generate_series(1, {users}) n, unnest('{{PLAYER,COACH}}'::text[]) name;
INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level)
    SELECT n, name, 2, 2 FROM generate_series(1, {users}) n, unnest('{{PLAYER,COACH}}'::text[]) name;
INSERT INTO license_progressions (user_license_id, from_level, to_level) SELECT id, 1, 2 FROM user_licenses;
INSERT INTO certificates (license_id) SELECT id FROM user_licenses WHERE id % 5 = 0;
"""


class Fault(NamedTuple):
    """A fault: how it is made in rows that `{p}` and `{l}` choose, and what must be there after the repair.

    `after`: progress and license level, highest level, experience; of a user with more than one row, None.
    """

    name: str
    statements: str
    after: tuple[int | None, ...]


_PROGRESS = "UPDATE specialization_progress SET {sets} WHERE {{p}};"
_LICENSE = "UPDATE user_licenses SET {sets} WHERE {{l}};"
_AGAIN = (
    "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp) "
    "SELECT student_id, {name}, {level}, {xp} FROM specialization_progress WHERE {{p}};"
)

FAULTS = (
    Fault("progress ahead", _PROGRESS.format(sets="current_level = 3, total_xp = 2600"), (3, 3, 3, 2600)),
    Fault("license ahead", _LICENSE.format(sets="current_level = 4, max_achieved_level = 5"), (4, 4, 5, 1500)),
    Fault(
        "license missing",
        "DELETE FROM certificates WHERE license_id IN (SELECT id FROM user_licenses WHERE {l});"
        "DELETE FROM license_progressions WHERE user_license_id IN (SELECT id FROM user_licenses WHERE {l});"
        "DELETE FROM user_licenses WHERE {l};",
        (2, 2, 2, 1500),
    ),
    Fault("progress missing", "DELETE FROM specialization_progress WHERE {p};", (2, 2, 2, 0)),
    Fault("progress in lower case", _PROGRESS.format(sets="specialization_id = 'player'"), (2, 2, 2, 1500)),
    Fault(
        "both in other spellings",
        _PROGRESS.format(sets="specialization_id = 'Player '") + _LICENSE.format(sets="specialization_type = 'pLAYER'"),
        (2, 2, 2, 1500),
    ),
    Fault("two spellings", _AGAIN.format(name="'player'", level=3, xp=2600), (3, 3, 3, 2600)),
    Fault("progress twice", _AGAIN.format(name="specialization_id", level=1, xp=10), (2, 2, 2, 1500)),
    Fault(
        "license twice",
        "WITH second AS (INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level) "
        "SELECT user_id, specialization_type, 4, 4 FROM user_licenses WHERE {l} RETURNING id) "
        "INSERT INTO license_progressions (user_license_id, from_level, to_level) SELECT id, 2, 4 FROM second;",
        (4, 4, 4, 1500),
    ),
    Fault("level NULL", _PROGRESS.format(sets="current_level = NULL"), (2, 2, 2, 1500)),
    Fault(
        "user gone",
        "DELETE FROM specialization_progress WHERE student_id IN "
        "(SELECT student_id FROM specialization_progress WHERE {p});"
        "DELETE FROM users WHERE {u};"
        "DELETE FROM license_progressions WHERE user_license_id IN (SELECT id FROM user_licenses WHERE {co});"
        "DELETE FROM certificates WHERE license_id IN (SELECT id FROM user_licenses WHERE {co});"
        "DELETE FROM user_licenses WHERE {co};",
        (None, 2, 2, None),
    ),
    Fault("unknown name", _AGAIN.format(name="'JUGGLER'", level=7, xp=70), (2, 2, 2, 1500)),
)
LEFT = ("user gone", "unknown name")


class Planted(NamedTuple):
    """What was planted: how many pairs there are, in how many of them a fault."""

    pairs: int
    every: int

    @property
    def faults(self) -> int:
        """How many pairs have a fault."""
        return self.pairs // 2 // self.every

    def chosen(self, column: str, number: int | None = None) -> str:
        """The condition for the users of one fault, or of all."""
        of_fault = "" if number is None else f" AND ({column} / {self.every}) % {len(FAULTS)} = {number}"
        return f"{column} % {self.every} = 0{of_fault}"


def plant(database: psycopg.Connection[Any], pairs: int, every: int) -> Planted:
    """Make the tables, fill them, plant the faults. `every`: each of so many users has one."""
    planted = Planted(pairs, every)
    database.execute(_TABLES)
    database.execute(_ROWS.format(users=pairs // 2))
    for number, fault in enumerate(FAULTS):
        own, license_ = planted.chosen("student_id", number), planted.chosen("user_id", number)
        conditions = {
            "p": f"{own} AND specialization_id = 'PLAYER'",
            "l": f"{license_} AND specialization_type = 'PLAYER'",
            "co": f"{license_} AND specialization_type = 'COACH'",
            "u": planted.chosen("id", number),
        }
        database.execute(fault.statements.format(**conditions))
    database.execute("ANALYZE")
    return planted


def untouched(database: psycopg.Connection[Any], planted: Planted) -> dict[str, str]:
    """By table a checksum of all rows, every column of them, in which nothing was planted."""
    of_license = (
        "SELECT FROM user_licenses l WHERE l.id = {column} AND "
        f"{planted.chosen('l.user_id')} AND upper(trim(l.specialization_type)) = 'PLAYER'"
    )
    progress, license_ = planted.chosen("student_id"), planted.chosen("user_id")
    others = {
        "users": f"NOT ({planted.chosen('id')})",
        "specialization_progress": f"NOT ({progress} AND upper(trim(specialization_id)) = 'PLAYER')",
        "user_licenses": f"NOT ({license_} AND upper(trim(specialization_type)) = 'PLAYER')",
        "license_progressions": f"NOT EXISTS ({of_license.format(column='user_license_id')})",
        "certificates": f"NOT EXISTS ({of_license.format(column='license_id')})",
    }
    found = {}
    for table, condition in others.items():
        row = database.execute(
            f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t WHERE {condition}"
        ).fetchone()
        found[table] = str(row)
    changed = f"SELECT count(*) FROM changes WHERE NOT ({planted.chosen('student_id')})"
    found["changes"] = str(database.execute(changed).fetchone())
    return found


def wrong(database: psycopg.Connection[Any], planted: Planted) -> dict[str, int]:
    """By fault, how many of its pairs are not as they must be after the repair."""
    found = {}
    for number, fault in enumerate(FAULTS):
        values = ", ".join("NULL::int" if value is None else f"{value}" for value in fault.after)
        row = database.execute(f"""
            SELECT count(*) FROM generate_series(1, {planted.pairs // 2}) AS k(u)
            LEFT JOIN (SELECT student_id, count(*) AS rows, max(current_level) AS level, max(total_xp) AS xp
                       FROM specialization_progress WHERE specialization_id = 'PLAYER' AND note = 'kept' GROUP BY 1
            ) p ON p.student_id = u
            LEFT JOIN (SELECT user_id, count(*) AS rows, max(current_level) AS level, max(max_achieved_level) AS highest
                       FROM user_licenses WHERE specialization_type = 'PLAYER' AND is_active GROUP BY 1
            ) l ON l.user_id = u
            WHERE {planted.chosen("u", number)}
                AND (coalesce(p.rows, 0), l.rows, p.level, l.level, l.highest, p.xp)
                IS DISTINCT FROM ({int(fault.after[0] is not None)}, 1, {values})
        """).fetchone()
        assert row is not None
        found[fault.name] = int(row[0])
    strays = (
        "SELECT count(*) FROM specialization_progress WHERE specialization_id NOT IN ('PLAYER', 'COACH', 'JUGGLER')"
    )
    row = database.execute(strays).fetchone()
    assert row is not None
    return found | {"misspelt": int(row[0])}
