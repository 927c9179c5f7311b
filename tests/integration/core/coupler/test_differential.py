"""Random commands by every path, against the dictionary model: each row and each outcome must agree.

A failing example is printed with the blob that replays it; `--hypothesis-seed=N` repeats a whole run.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

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
    level_up_atomic,
)
from levelq_core.domain.outcome import outcome as outcome_from
from levelq_core.domain.record import Lane, lane_of
from levelq_core.operations.queries import outcome_of
from levelq_worker.draining.context import Runtime
from tests.support.commands import command_in, command_of
from tests.support.coupler import (
    Observed,
    clear,
    columns_of,
    comparable,
    drain_all,
    is_application,
    ledger,
    predicted,
    push,
    put_license,
    put_progress,
    runtime,
    tables,
)
from tests.support.coupler_strategies import any_commands, direct_commands, histories, rows_before
from tests.support.isolation import apply
from tests.support.model import LEVELS, TOTALS, LaneKey, Model, Prediction, Row

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

    def _put(self, connection: Connection, model: Model, lane: LaneKey, progress: Any, license_: Any) -> None:
        if progress is not None:
            totals = {name: progress[name] or (None if self.nullable else 0) for name in TOTALS}
            put_progress(connection, lane, progress["level"], **totals)
            model.progress[lane] = {"level": progress["level"], **{name: progress[name] or 0 for name in TOTALS}}
        if license_ is not None:
            level, highest = license_["level"], license_["highest"]
            put_license(connection, lane, level, highest if self.nullable else highest or level)
            model.licenses[lane] = {"level": level, "highest": highest or level}

    def compare(self, model: Model, source: str) -> None:
        """Every row of the three tables, every row of the ledger, and what the ledger holds of each command."""
        with self.engine.connect() as connection:
            assert tables(connection) == predicted(model)
            found = ledger(connection)
            expected = {command_id: _expected(entry, source) for command_id, entry in model.ledger.items()}
            assert {row["command_id"]: {name: row[name] for name in _COMPARED} for row in found} == expected
            _compare_order(found, model)
            for command_id, entry in model.ledger.items():
                kept = outcome_of(connection, command_id)
                assert kept is not None and comparable(kept) == entry["outcome"]
            rows = connection.execute(text("SELECT * FROM levelq_ledger ORDER BY id"))
            assert [command_in(row) for row in rows] == [model.ledger[row["command_id"]]["command"] for row in found]


_NUMBERS = ("xp", "sessions", "projects", "theory_hours", "practice_hours")
_SAME = ("status", "error", "from_level", "to_level")
_COMPARED = ("command_id", "user_id", "specialization", "kind", *_SAME, *_NUMBERS, "before", "after", "source")


def _expected(entry: Row, source: str) -> Row:
    """The columns of a ledger row that the model predicts."""
    command: Command = entry["command"]
    outcome: Prediction = entry["outcome"]
    return {
        **{name: getattr(command, name) for name in ("command_id", "user_id", "specialization", "kind")},
        **{name: outcome[name] for name in _SAME},
        **dict(zip(_NUMBERS, _numbers(command), strict=True)),
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
    order = by_lane((Lane(row["specialization"], row["user_id"]), row["command_id"]) for row in found)
    expected = by_lane((lane_of(entry["command"]), command_id) for command_id, entry in model.ledger.items())
    assert order == expected


def by_lane(pairs: Iterable[tuple[Lane, Any]]) -> dict[Lane, list[Any]]:
    found: dict[Lane, list[Any]] = {}
    for lane, value in pairs:
        found.setdefault(lane, []).append(value)
    return found


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
        outcomes = apply(world.engine, batch)
        assert [comparable(o) for o in outcomes] == [model.apply(command) for command in batch]
        sent, decided = ([(x.command_id, x.specialization, x.user_id) for x in xs] for xs in (batch, outcomes))
        assert decided == sent
    world.compare(model, "direct")


DEMANDING: dict[str, Any] = {
    "PLAYER": {
        "levels": [
            0,
            {"total_xp": 700, "completed_sessions": 1},
            {"total_xp": 700, "completed_sessions": 700, "completed_projects": 2},
        ]
    },
    "COACH": {
        "tracks_hours": True,
        "levels": [
            0,
            {"theory_hours": 3},
            {"theory_hours": 6, "practice_hours": 3},
            {"theory_hours": 6, "practice_hours": 3, "total_xp": 1},
        ],
    },
}


@modest
@given(commands=histories(any_commands), before=rows_before)
def test_catalog_that_requires_more_than_experience(world: World, commands: list[Command], before: Any) -> None:
    model = world.begin(before)
    model.catalog = DEMANDING
    outcomes = apply(world.engine, commands, catalog=Catalog.of(DEMANDING))
    assert [comparable(o) for o in outcomes] == [model.apply(command) for command in commands]
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
        settings = [Settings.load(redis_url=servers.valkey.url, database_url=database_url, **sizes) for sizes in SIZES]
        yield [stack.enter_context(runtime(each)) for each in settings]


@modest
@given(commands=histories(any_commands), before=rows_before, size=st.integers(0, len(SIZES) - 1))
def test_whole_queue(
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
        assert comparable(outcome) == model.apply(command)
    # Each lane was delivered once, whole and in the order it was pushed.
    sent, decided = (by_lane((lane_of(c), c) for c in found) for found in (commands, [c for c, _ in delivered]))
    assert decided == sent
    world.compare(model, "queue")


def _decisions(observed: Observed) -> list[tuple[Command, Any]]:
    """The worker's decisions in the order of effect; between lanes the queue promises no order."""
    return [
        (command_of(work.lane, record), outcome_from(work.lane, record, decision))
        for batch in observed.seen
        for work in sorted(batch.works, key=lambda work: work.indexes[0])
        for record, decision in zip(work.records, work.decisions, strict=True)
    ]


def call(session: Session, command: Command) -> Any:
    """The direct call that stands for a command."""
    coupler = ProgressLicenseCoupler(session)
    fields = command.model_dump()
    whole: dict[Any, Any] = {
        SetLevel: coupler.update_level_atomic,
        Adjust: coupler.adjust_atomic,
        Reset: coupler.reset_atomic,
    }
    if type(command) in whole:
        return whole[type(command)](**fields)
    common = ("user_id", "specialization", "command_id")
    if isinstance(command, SyncLevels):
        return coupler.sync_existing_records_atomic(**{name: fields[name] for name in (*common, "source")})
    names = (*common, "xp_gained", "sessions_completed", "reason")
    return level_up_atomic(session, **{name: fields[name] for name in names})


def as_dict(command: Command, outcome: Prediction) -> Row:
    """The documented dictionary of a predicted outcome that is committed, without its message."""
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
