"""Random commands through every way in, against the dictionary model: each row and each outcome must agree.

A failing example is printed with the blob that replays it; `--hypothesis-seed=N` repeats a whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from levelq.embedded import Servers
from levelq_core import (
    Adjust,
    Catalog,
    Command,
    ProgressLicenseCoupler,
    Reset,
    SetLevel,
    Settings,
    SyncLevels,
    apply_commands,
    level_up_atomic,
)
from levelq_core.coupler.apply import outcome as outcome_from
from levelq_core.coupler.ledger import command_in
from levelq_core.domain.codec import Lane, command_of, lane_of
from levelq_core.operations.queries import outcome_of
from levelq_worker.draining.context import Runtime
from tests.model import LEVELS, TOTALS, LaneKey, Model, Prediction, Row
from tests.support.coupler import (
    Observed,
    clear,
    columns_of,
    drain_all,
    is_application,
    ledger,
    predicted,
    push,
    put_license,
    put_progress,
    runtime,
    tables,
    told,
)
from tests.support.coupler_strategies import any_commands, direct_commands, histories, rows_before

SPECIALIZATIONS = ("PLAYER", "COACH", "INTERNSHIP", "WIZARD")
pytestmark = pytest.mark.timeout(300)  # a failing example is shrunk first, which on a busy machine takes minutes

modest = settings(
    max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class World:
    """One database of either kind, emptied for each example, and the model beside it."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.engine = engine
        self.columns = columns_of(url)
        self.nullable = is_application(url)

    def begin(self, before: dict[LaneKey, tuple[Row | None, Row | None]]) -> Model:
        """Empty the tables, put the rows that were there before into both, and give the model."""
        model = Model(self.columns)
        with self.engine.begin() as connection:
            clear(connection)
            for lane, (progress, license_) in before.items():
                self._put(connection, model, lane, progress, license_)
        return model

    def _put(
        self, connection: Connection, model: Model, lane: LaneKey, progress: Row | None, license_: Row | None
    ) -> None:
        if progress is not None:
            totals = {name: progress[name] or (None if self.nullable else 0) for name in TOTALS}
            put_progress(connection, lane, progress["level"], **totals)
            model.progress[lane] = {"level": progress["level"], **{name: progress[name] or 0 for name in TOTALS}}
        if license_ is not None:
            level, highest = license_["level"], license_["highest"]
            put_license(connection, lane, level, highest if self.nullable else highest or level)
            model.licenses[lane] = {"level": level, "highest": highest or level}

    def compare(self, model: Model, source: str) -> None:
        """Every row of the three tables, every row of the ledger, and what the ledger tells of each command."""
        with self.engine.connect() as connection:
            assert tables(connection) == predicted(model)
            found = ledger(connection)
            assert {row["command_id"]: _decided(row) for row in found} == {
                command_id: _expected(entry, source) for command_id, entry in model.ledger.items()
            }
            _compare_order(found, model)
            for command_id, entry in model.ledger.items():
                kept = outcome_of(connection, command_id)
                assert kept is not None and told(kept) == entry["outcome"]
            rows = connection.execute(text("SELECT * FROM levelq_ledger ORDER BY id"))
            assert [command_in(row) for row in rows] == [model.ledger[row["command_id"]]["command"] for row in found]


def _decided(row: Row) -> Row:
    """A row of the ledger without what differs from run to run."""
    left = ("id", "message", "digest", "batch", "xid", "applied_at", "level", "mode", "advanced_by", "reason")
    return {name: row[name] for name in row if name not in left}


def _expected(entry: Row, source: str) -> Row:
    command: Command = entry["command"]
    outcome: Prediction = entry["outcome"]
    names = ("xp", "sessions", "projects", "theory_hours", "practice_hours")
    return {
        "command_id": command.command_id,
        "user_id": command.user_id,
        "specialization": command.specialization,
        "kind": command.kind,
        "status": outcome["status"],
        "error": outcome["error"],
        **dict(zip(names, _numbers(command), strict=True)),
        "from_level": outcome["from_level"],
        "to_level": outcome["to_level"],
        **{side: _array(outcome[side]) for side in ("before", "after")},
        "source": source,
    }


def _array(totals: Row | None) -> list[int] | None:
    return None if totals is None else [totals[name] for name in (*LEVELS, *TOTALS)]


def _numbers(command: Command) -> list[int]:
    fields = command.model_dump(exclude={"user_id", "command_id", "specialization", "reason", "advanced_by"})
    return [n for name, n in fields.items() if name not in ("new_level", "source", "level")] or [0] * 5


def _compare_order(found: Sequence[Row], model: Model) -> None:
    """The ledger's ids ascend per lane in the order of effect."""
    order: dict[Lane, list[UUID]] = {}
    for row in found:
        order.setdefault(Lane(row["specialization"], row["user_id"]), []).append(row["command_id"])
    expected: dict[Lane, list[UUID]] = {}
    for command_id, entry in model.ledger.items():
        expected.setdefault(lane_of(entry["command"]), []).append(command_id)
    assert order == expected


@pytest.fixture
def world(database_url: str, engine: Engine) -> World:
    return World(database_url, engine)


@modest
@given(commands=histories(direct_commands), before=rows_before)
def test_direct_calls_one_by_one(world: World, commands: list[Command], before: Any) -> None:
    model = world.begin(before)
    with Session(world.engine) as session:
        for command in commands:
            assert _without_message(call(session, command)) == as_dict(command, model.apply(command))
    world.compare(model, "direct")


@modest
@given(commands=histories(any_commands), before=rows_before, cuts=st.sets(st.integers(1, 19)))
def test_batches_however_split(world: World, commands: list[Command], before: Any, cuts: set[int]) -> None:
    model = world.begin(before)
    edges = [0, *sorted(cut for cut in cuts if cut < len(commands)), len(commands)]
    for start, end in pairwise(edges):
        batch = commands[start:end]
        with world.engine.begin() as connection:
            outcomes = apply_commands(connection, batch)
        assert [told(o) for o in outcomes] == [model.apply(command) for command in batch]
        assert [(o.command_id, o.specialization, o.user_id) for o in outcomes] == [
            (c.command_id, c.specialization, c.user_id) for c in batch
        ]
    world.compare(model, "direct")


DEMANDING: dict[str, Any] = {
    "PLAYER": {
        "levels": [0, {"total_xp": 700, "completed_sessions": 1}, {"total_xp": 700, "completed_projects": 2}],
    },
    "COACH": {
        "tracks_hours": True,
        "levels": [
            0,
            {"theory_hours": 3},
            {"theory_hours": 6, "practice_hours": 3},
            {"theory_hours": 6, "total_xp": 1},
        ],
    },
}
DEMANDING["PLAYER"]["levels"][2]["completed_sessions"] = 700
DEMANDING["COACH"]["levels"][3]["practice_hours"] = 3


@modest
@given(commands=histories(any_commands), before=rows_before)
def test_a_catalog_that_asks_for_more_than_experience(world: World, commands: list[Command], before: Any) -> None:
    model = world.begin(before)
    model.catalog = DEMANDING
    with world.engine.begin() as connection:
        outcomes = apply_commands(connection, commands, catalog=Catalog.parse(DEMANDING))
    assert [told(o) for o in outcomes] == [model.apply(command) for command in commands]
    world.compare(model, "direct")


SIZES: tuple[dict[str, int], ...] = (
    {},
    {"batch_commands": 7, "lane_commands": 3, "batch_lanes": 2},
    {"batch_commands": 1},
)


@pytest.fixture
def workers(servers: Servers, redis: Redis, database_url: str) -> Iterator[list[Runtime]]:
    """Workers with large, small and the smallest batches."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                runtime(Settings.load(redis_url=servers.valkey.url, database_url=database_url, **sizes))
            )
            for sizes in SIZES
        ]


@modest
@given(commands=histories(any_commands), before=rows_before, size=st.integers(0, len(SIZES) - 1))
def test_the_whole_queue(
    world: World, workers: list[Runtime], redis: Redis, commands: list[Command], before: Any, size: int
) -> None:
    model = world.begin(before)
    redis.flushall()
    worker = workers[size]
    worker.transactions = observed = Observed(worker.engine, worker.settings)
    push(worker, commands, reply=True)
    drain_all(worker, *SPECIALIZATIONS)
    delivered = _decisions(observed)
    for command, outcome in delivered:
        assert told(outcome) == model.apply(command)
    _compare_lanes(commands, [command for command, _ in delivered])
    world.compare(model, "queue")


def _decisions(observed: Observed) -> list[tuple[Command, Any]]:
    """What the worker decided, in the order of effect: between lanes the queue promises none."""
    return [
        (command_of(work.lane, record), outcome_from(work.lane, record, decision))
        for batch in observed.seen
        for work in sorted(batch.works, key=lambda work: work.places[0])
        for record, decision in zip(work.records, work.decisions, strict=True)
    ]


def _compare_lanes(sent: Sequence[Command], delivered: Sequence[Command]) -> None:
    """Each lane was delivered once, whole and in the order it was pushed."""

    def lanes(commands: Sequence[Command]) -> dict[Lane, list[Command]]:
        found: dict[Lane, list[Command]] = {}
        for command in commands:
            found.setdefault(lane_of(command), []).append(command)
        return found

    assert lanes(delivered) == lanes(sent)


def call(session: Session, command: Command) -> Any:
    """The direct call that stands for a command."""
    coupler = ProgressLicenseCoupler(session)
    fields = command.model_dump()
    if isinstance(command, SetLevel):
        return coupler.update_level_atomic(**fields)
    if isinstance(command, Adjust):
        return coupler.adjust_atomic(**fields)
    if isinstance(command, Reset):
        return coupler.reset_atomic(**fields)
    if isinstance(command, SyncLevels):
        return coupler.sync_existing_records_atomic(
            command.user_id, command.specialization, command.source, command.command_id
        )
    names = ("user_id", "specialization", "xp_gained", "sessions_completed", "reason", "command_id")
    return level_up_atomic(session, **{name: fields[name] for name in names})


def as_dict(command: Command, outcome: Prediction) -> Row:
    """The dictionary that DESIGN section 3 promises for a predicted outcome, without its message; it is committed."""
    before, after = outcome["before"], outcome["after"]
    if outcome["status"] == "rejected":
        error = "database_error" if outcome["error"] == "database_error" else "validation_error"
        return {"success": False, "error_type": error}
    if isinstance(command, SyncLevels):
        level = outcome["to_level"]
        return {"success": True, "action": _action(command, before), "final_level": level}
    return {
        "success": True,
        "progress": {
            "old_level": before["progress_level"],
            "new_level": after["progress_level"],
            "total_xp": after["total_xp"],
            "completed_sessions": after["completed_sessions"],
        },
        "license": {
            "old_level": before["license_level"],
            "new_level": after["license_level"],
            "max_achieved_level": after["max_achieved_level"],
        },
        "progression_created": outcome["from_level"] != outcome["to_level"],
        "xp_change": after["total_xp"] - before["total_xp"],
        "sessions_change": after["completed_sessions"] - before["completed_sessions"],
    }


def _action(command: SyncLevels, before: Row) -> str:
    if before["progress_level"] == before["license_level"]:
        return "none"
    target = "license" if command.source == "progress" else "progress"
    return f"{'updated' if before[f'{target}_level'] else 'created'}_{target}"


def _without_message(result: Row) -> Row:
    assert result["message"] and "\n" not in result["message"]
    return {name: value for name, value in result.items() if name != "message"}
