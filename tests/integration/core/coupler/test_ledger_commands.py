"""The ledger keeps all of a command, so that it can be sent once more."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from levelq import Adjust, Command, ProgressLicenseCoupler, Reset, SchemaError, Settings, SyncLevels, apply_commands
from levelq.embedded import Servers
from levelq_core.database.schema import forget
from levelq_core.operations.readings.history import History
from levelq_worker.support.preflight import preflight
from tests.support.commands import command_in
from tests.support.coupler import clear
from tests.support.db_check import execute, findings, fix
from tests.support.isolation import apply, level_up
from tests.support.strategies import commands

ADDED = ("level", "mode", "advanced_by", "reason", "settled")


def kept(engine: Engine) -> list[Command]:
    with engine.connect() as connection:
        return [command_in(row) for row in connection.execute(text("SELECT * FROM levelq_ledger ORDER BY id"))]


def specialized(command: Command, specialization: str, user_id: int) -> Command:
    return command.model_copy(update={"specialization": specialization, "user_id": user_id})


known = st.builds(specialized, commands, st.sampled_from(["PLAYER", "COACH", "INTERNSHIP"]), st.integers(1, 5))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(known | commands, min_size=1, max_size=20, unique_by=lambda command: command.command_id))
def test_every_decided_command_is_in_the_ledger_as_it_was_sent(engine: Engine, batch: list[Command]) -> None:
    with engine.begin() as connection:
        clear(connection)
        apply_commands(connection, batch)
    by_id = {command.command_id: command for command in batch}
    assert {command.command_id: command for command in kept(engine)} == by_id


def test_rejection_of_a_direct_call_keeps_the_command(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    coupler.adjust_atomic(1, "PLAYER", xp_change=-1, level="earned", advanced_by=7, reason="Müller, 勝利")
    coupler.reset_atomic(1, "PLAYER", total_xp=5, level=9, reason="too high")
    coupler.sync_existing_records_atomic(1, "PLAYER", "license")
    lane: dict[str, Any] = {"user_id": 1, "specialization": "PLAYER"}
    expected = [
        Adjust(**lane, xp_change=-1, level="earned", advanced_by=7, reason="Müller, 勝利"),
        Reset(**lane, total_xp=5, level=9, reason="too high"),
        SyncLevels(**lane, source="license"),
    ]
    sent, found = ([c.model_dump(exclude={"command_id"}) for c in commands] for commands in (expected, kept(engine)))
    assert found == sent


def test_reason_that_the_databases_encoding_lacks_is_kept_as_escapes(
    database_in: Callable[[str], str], engines: Callable[..., Engine]
) -> None:
    """A command that writes it nowhere else is applied."""
    engine = engines(database_in("LATIN1"))
    (outcome,) = apply(engine, [level_up(1, 1, reason="Победа ü")])
    assert outcome.status == "applied"
    assert [command.reason for command in kept(engine)] == ["\\u041f\\u043e\\u0431\\u0435\\u0434\\u0430 \\xfc"]


# A ledger without these columns


@pytest.fixture
def older(engine: Engine) -> Engine:
    apply(engine, [level_up(1, 1000, reason="before")])
    execute(engine, *(f"ALTER TABLE levelq_ledger DROP COLUMN {name}" for name in ADDED))
    forget(engine)
    return engine


def test_db_check_reports_an_older_ledger_and_prints_what_fixes_it(older: Engine) -> None:
    found = findings(older)
    assert [(finding.severity, finding.problem) for finding in found] == [
        ("error", f"levelq_ledger has no column {name}") for name in ADDED
    ]
    fix(older, found)
    (index,) = findings(older)  # it needs the last of these columns
    assert (index.severity, "no index of its open rejections" in index.problem) == ("warning", True)
    fix(older, [index])
    assert findings(older) == []
    second = Reset(user_id=1, specialization="PLAYER", level=2, advanced_by=7, reason="after")
    assert apply(older, [second])[0].status == "applied"
    assert [entry.kind for entry in History(older).of(1)] == ["reset", "level_up"]
    first, last = kept(older)
    assert (first.reason, last) == ("", second)


def test_worker_refuses_to_start_on_an_older_ledger(older: Engine, servers: Servers, database_url: str) -> None:
    with pytest.raises(SchemaError, match=r"levelq_ledger has no column level; .*`levelq db check` prints"):
        preflight(Settings.load(redis_url=servers.valkey.url, database_url=database_url))


def test_column_that_is_not_null_is_reported(engine: Engine) -> None:
    execute(engine, "ALTER TABLE levelq_ledger ALTER reason SET NOT NULL")
    (finding,) = findings(engine)
    assert finding.problem == "levelq_ledger.reason is NOT NULL: levelq writes NULL where nothing is known"
    fix(engine, [finding])
    assert findings(engine) == []
