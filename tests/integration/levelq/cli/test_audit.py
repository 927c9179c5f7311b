"""`levelq audit`: each command that changes something has written who did what to what, when and from where."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from levelq_core.operations.audit import RunLine
from levelq_core.operations.readings.audit_lines import AUDIT_LINES, Acts
from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.system import System, up


def lines(levelq: Levelq, *arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(levelq("audit", "--json", *arguments).out)["lines"]
    return found


@pytest.mark.parametrize(
    ("command", "target", "detail"),
    [
        ("send level-up 1 PLAYER --xp 5 --no-wait", "user 1 PLAYER", {"kind": "level_up"}),
        ("sync 7 player --source progress", "user 7 PLAYER", {"source": "progress"}),
        ("prune --older-than 1h", "levelq_ledger", {"older_than_seconds": 3600, "levelq_ledger": 1}),
        ("rebuild COACH", "COACH", {"removed_keys": 0, "lanes_ready_again": 0, "commands_restored": 0}),
        ("shards COACH 2 --no-wait", "COACH", {"shards": 2}),
        ("namespace rebind --yes", "levelq", {"from": None}),
    ],
)
def test_command_that_changes_something_writes_its_line(
    command: str, target: str, detail: dict[str, Any], system: System, levelq_here: Levelq
) -> None:
    system.push(up(7))
    system.drain()
    system.redis.delete("levelq:database")
    system.sql("UPDATE levelq_ledger SET applied_at = now() - interval '2 hours'")
    assert levelq_here(*command.split()).code == 0
    (line,) = lines(levelq_here)
    verb = "namespace rebind" if command.startswith("namespace") else command.partition(" ")[0]
    assert (line["action"], line["target"]) == (verb, target)
    assert line["detail"].items() >= detail.items()
    assert line["actor"].endswith(" as postgres") and line["origin"] and line["at"].endswith("Z")


def test_lines_are_filtered_and_shown_newest_first(system: System, levelq_here: Levelq) -> None:
    with system.engine.begin() as connection:
        for days, action, target in (
            (9, "cancel", "user 4 PLAYER"), (3, "rejected retry", "user 42"), (2, "rejected discard", "user 4"),
            (1, "purge", "every\x1b[2Jthing"),
        ):  # fmt: skip
            connection.execute(
                text("""
                    INSERT INTO levelq_audit (at, actor, origin, action, target, detail)
                    VALUES (now() - :days * interval '1 day', 'ann as ops', 'host levelq', :action, :target, '{"n": 1}')
                """),
                {"days": days, "action": action, "target": target},
            )
    expected: dict[tuple[object, ...], list[int]] = {
        (): [4, 3, 2, 1], ("--limit", 1): [4], ("--user", 4): [3, 1], ("--action", "rejected"): [3, 2],
        ("--action", "rejected retry"): [2], ("--since", "5d"): [4, 3, 2], ("--since", "5d", "--until", "36h"): [3, 2],
    }  # fmt: skip
    assert {key: [line["id"] for line in lines(levelq_here, *key)] for key in expected} == expected
    shown = levelq_here("audit").out
    assert "\x1b" not in shown and "every\\x1b[2Jthing" in shown and "ann as ops" in shown
    assert levelq_here("audit", "--user", 5).out.startswith("no line matches")


@pytest.mark.parametrize(
    ("database", "why"),
    [("", "LEVELQ_DATABASE_URL is not set"), (f"postgresql://{NOWHERE}/app", "LEVELQ_DATABASE_URL")],
)
def test_act_in_redis_alone_is_done_and_says_that_it_is_not_in_the_audit(
    database: str, why: str, system: System, levelq_here: Levelq
) -> None:
    code, _, err = levelq_here("shards", "COACH", 2, "--no-wait", LEVELQ_DATABASE_URL=database)
    assert (code, err.count("\n")) == (0, 1)
    assert "done, but not in the audit: " in err and why in err
    assert levelq_here("send", "level-up", 1, "PLAYER", "--no-wait", LEVELQ_DATABASE_URL="").err == ""


def test_commands_without_a_database_name_it(levelq_here: Levelq) -> None:
    away = f"postgresql://{NOWHERE}/app"
    for command in ("audit", "rejected list", "rejected retry --yes", "quarantine list", "quarantine discard --yes"):
        assert "LEVELQ_DATABASE_URL" in levelq_here.refused(*command.split(), LEVELQ_DATABASE_URL=away)


def test_line_of_a_run_whose_first_transaction_is_rolled_back_is_written_by_the_next(system: System) -> None:
    line = RunLine("prune", "everything")
    for removed, ends in ((1, "ROLLBACK"), (2, "COMMIT"), (5, "COMMIT")):
        with system.engine.connect() as connection:
            line.write(connection, {"removed": removed})
            connection.exec_driver_sql(ends)
    assert [found.detail for found in AUDIT_LINES.newest(system.engine, Acts())] == [{"removed": 5}]
