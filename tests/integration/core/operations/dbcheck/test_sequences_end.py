"""Sequences and identity columns that near their end: found beforehand, and widened by the printed fix."""

import logging
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from levelq_core import SchemaError, Settings
from levelq_core.operations.checks import check_database
from levelq_core.operations.dbcheck.sequences import sequences_of
from levelq_core.operations.readings.status import status as look
from levelq_worker.support.preflight import preflight
from tests.support.db_check import execute, findings, fix, role, works
from tests.support.fixtures.databases import as_role

MOST = 2**31 - 1


def narrow(engine: Engine, table: str, column: str = "id") -> None:
    """An id of 32 bits, as older applications have them."""
    execute(engine, f"ALTER TABLE {table} ALTER COLUMN {column} TYPE integer")


def use_up(engine: Engine, table: str, last: int) -> None:
    execute(engine, f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {last})")


def problems_of(engine: Engine) -> list[tuple[str, str]]:
    return [finding[:2] for finding in findings(engine)]


@pytest.mark.parametrize("table", ["specialization_progress", "user_licenses", "license_progressions", "levelq_outbox"])
def test_sequence_beyond_80_percent_is_a_warning_and_the_printed_statements_widen_it(
    engine: Engine, table: str
) -> None:
    if table == "levelq_outbox":
        execute(engine, "ALTER SEQUENCE levelq_outbox_id_seq MAXVALUE 1000000")
        last, most = 900_000, 1_000_000
    else:
        narrow(engine, table)
        narrow(engine, "license_progressions", "user_license_id")
        last, most = int(MOST * 0.9), MOST
    assert works(engine, 1)
    use_up(engine, table, int(most * 0.79))
    assert problems_of(engine) == []
    use_up(engine, table, last)
    found = findings(engine)
    assert [finding[:2] for finding in found] == [
        ("warning", f"{table}.id: its sequence has used 90% of its numbers, {last} of {most}")
    ]
    fix(engine, found)
    assert findings(engine) == []
    use_up(engine, table, most + 5)
    assert findings(engine) == []
    assert works(engine, 2)


def test_sequence_at_its_end_is_an_error_and_inserts_work_again_once_it_is_widened(engine: Engine) -> None:
    narrow(engine, "license_progressions")
    use_up(engine, "license_progressions", MOST)
    assert not works(engine, 1)
    found = findings(engine)
    assert [finding[:2] for finding in found] == [
        ("error", f"license_progressions.id: its sequence is at its end, {MOST} of {MOST}: inserts fail")
    ]
    fix(engine, found)
    assert findings(engine) == []
    assert works(engine, 2)


def test_narrow_column_below_a_wide_sequence_is_what_counts(own_engine: Engine) -> None:
    execute(
        own_engine,
        "ALTER TABLE levelq_quarantine ADD COLUMN ticket integer NOT NULL DEFAULT 0",
        "CREATE SEQUENCE tickets START 2000000000",
        "SELECT nextval('tickets')",
        "ALTER TABLE levelq_quarantine ALTER COLUMN ticket SET DEFAULT nextval('tickets')",
    )
    found = findings(own_engine)
    assert [finding.fix for finding in found] == [("ALTER TABLE levelq_quarantine ALTER COLUMN ticket TYPE bigint;",)]
    fix(own_engine, found)
    assert findings(own_engine) == []


def test_worker_start_status_and_doctor_tell_of_a_sequence_that_nears_its_end(
    settings: Settings, own_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    narrow(own_engine, "license_progressions")
    use_up(own_engine, "license_progressions", int(MOST * 0.9))
    with caplog.at_level(logging.WARNING, "levelq"):
        preflight(settings)
    assert "license_progressions.id: its sequence has used 90% of its numbers" in caplog.text
    assert any("has used 90% of its numbers" in problem for problem in look(settings).problems)
    found = [finding for finding in check_database(settings) if "has used 90%" in finding.problem]
    assert [finding.severity for finding in found] == ["warning"]
    use_up(own_engine, "license_progressions", MOST)
    found = [finding for finding in check_database(settings) if "is at its end" in finding.problem]
    assert [finding.severity for finding in found] == ["error"]
    with pytest.raises(SchemaError, match="is at its end"):
        preflight(settings)


GRANTS = (
    "GRANT SELECT, INSERT, UPDATE, DELETE ON specialization_progress, user_licenses TO {role}",
    "GRANT SELECT, INSERT ON license_progressions, levelq_ledger, levelq_quarantine TO {role}",
    "GRANT SELECT, UPDATE, DELETE ON levelq_outbox TO {role}",
    "GRANT SELECT ON levelq_identity TO {role}",
)


@pytest.fixture
def restricted(own_engine: Engine, engines: Callable[..., Engine], settings: Settings) -> Iterator[Engine]:
    """An engine of a role with a worker's rights on the tables, and none on the sequences."""
    name = "levelq_restricted"
    with role(own_engine, name, *(grant.format(role=name) for grant in GRANTS)):
        made = engines(as_role(settings, name).database_url)
        yield made
        made.dispose()


def test_reading_sequences_needs_no_more_than_a_workers_rights(restricted: Engine, own_engine: Engine) -> None:
    found = findings(restricted)
    assert {finding.severity for finding in found} == {"warning"}
    assert found[0].problem == (
        "specialization_progress.id: this role may not read its sequence, specialization_progress_id_seq"
    )
    assert found[0].fix == ("GRANT USAGE ON SEQUENCE specialization_progress_id_seq TO levelq_restricted;",)
    fix(own_engine, found)
    assert findings(restricted) == []
    narrow(own_engine, "user_licenses")
    use_up(own_engine, "user_licenses", int(MOST * 0.9))
    assert problems_of(restricted) == [
        ("warning", f"user_licenses.id: its sequence has used 90% of its numbers, {int(MOST * 0.9)} of {MOST}")
    ]


def test_sequence_that_was_set_but_not_used_is_not_called_behind_by_a_role_that_may_only_use_it(
    restricted: Engine, own_engine: Engine
) -> None:
    fix(own_engine, findings(restricted))
    assert works(own_engine, 1)
    execute(own_engine, "SELECT setval('user_licenses_id_seq', 1, false)")
    assert [problem for _, problem in problems_of(own_engine)] == [
        "user_licenses.id: its sequence is behind the highest id, 1: inserts fail as duplicates"
    ]
    assert problems_of(restricted) == []
    with restricted.connect() as connection:
        assert all(sequence.readable for sequence in sequences_of(connection))
