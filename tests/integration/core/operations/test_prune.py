"""`levelq prune`: what is old goes, in small batches; what still waits somewhere stays."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import typer
from redis.exceptions import RedisError
from typer.testing import CliRunner

from levelq.cli import options
from levelq.cli import prune as prune_command
from levelq_core import ConfigurationError, LevelUp
from levelq_core.domain.codec import encode
from levelq_core.operations.prune import Pruned, prune
from levelq_core.redis_client.pool import connect
from tests.support.coupler import push, push_raw
from tests.support.db_check import query
from tests.support.verify import PLAYER, World, assert_clean, up

DAYS = timedelta(days=30)


def applied(world: World, count: int, *, user_id: int = 7) -> list[LevelUp]:
    """So many applied commands of one user."""
    commands = [up(user_id, n) for n in range(1, count + 1)]
    world.apply(*commands)
    return commands


def age(world: World, commands: list[LevelUp]) -> None:
    """Make these as if they had been decided a month ago."""
    world.sql(
        "UPDATE levelq_ledger SET applied_at = applied_at - interval '31 days' WHERE command_id = ANY(:ids)",
        ids=[command.command_id for command in commands],
    )


def remembered(world: World) -> set[UUID]:
    return {row[0] for row in query(world.engine, "SELECT command_id FROM levelq_ledger")}


def ids(commands: list[LevelUp]) -> set[UUID]:
    return {command.command_id for command in commands}


@pytest.mark.parametrize("old", [0, 1, 6, 10])
def test_what_is_old_goes_in_batches_and_the_rest_stays(world: World, old: int) -> None:
    commands = applied(world, 10)
    if old:
        age(world, commands[:old])
    steps: list[int] = []
    pruned = prune(world.engine, world.redis, DAYS, batch=4, step=lambda table, removed: steps.append(removed))
    assert pruned == [Pruned("levelq_ledger", old, 0)]
    assert remembered(world) == ids(commands[old:])
    assert steps == {0: [], 1: [1], 6: [4, 6], 10: [4, 8, 10]}[old]
    world.path.write_text("")
    assert_clean(world.verify(at_rest=True, partial_history=True))


def test_an_empty_ledger_and_gaps_between_ids(world: World) -> None:
    assert prune(world.engine, world.redis, DAYS) == [Pruned("levelq_ledger", 0, 0)]
    commands = applied(world, 9)
    world.sql("UPDATE levelq_ledger SET id = id * 1000")
    age(world, commands[:5])
    assert prune(world.engine, world.redis, DAYS) == [Pruned("levelq_ledger", 5, 0)]
    assert remembered(world) == ids(commands[5:])


def test_a_young_row_among_old_ones_stays(world: World) -> None:
    commands = applied(world, 6)
    age(world, [*commands[:2], *commands[3:5]])
    prune(world.engine, world.redis, DAYS)
    assert {commands[2].command_id, commands[5].command_id} <= remembered(world)


def test_commands_that_stand_in_a_lane_stay_and_are_not_applied_again(world: World) -> None:
    commands = applied(world, 6)
    age(world, commands)
    world.send(commands[1])
    world.worker.lanes.claim(PLAYER, "drain", "token", 10)
    world.send(commands[3])
    assert prune(world.engine, world.redis, DAYS, batch=2) == [Pruned("levelq_ledger", 4, 2)]
    assert remembered(world) == ids([commands[1], commands[3]])
    world.expire(7)
    world.drain()
    assert query(world.engine, "SELECT total_xp FROM specialization_progress") == [(sum(range(1, 7)),)]


def test_commands_in_the_outbox_stay(world: World) -> None:
    commands = applied(world, 3)
    age(world, commands)
    world.sql(
        "INSERT INTO levelq_outbox (command_id, user_id, specialization, payload) VALUES (:id, 7, 'PLAYER', :payload)",
        id=commands[1].command_id,
        payload=encode(commands[1]),
    )
    assert prune(world.engine, world.redis, DAYS) == [Pruned("levelq_ledger", 2, 1)]
    assert remembered(world) == ids(commands[1:2])


def test_the_quarantine_too_if_asked_but_not_what_stands_in_a_lane(world: World) -> None:
    for raw in (b"one", b"two", b"three"):
        push_raw(world.worker, "PLAYER", 7, raw)
    world.redis.copy(world.lane(7), "kept")
    world.drain()
    world.sql("UPDATE levelq_quarantine SET at = at - interval '31 days' WHERE id < 3")
    world.redis.copy("kept", world.lane(7))
    world.redis.ltrim(world.lane(7), 1, 1)
    assert prune(world.engine, world.redis, DAYS) == [Pruned("levelq_ledger", 0, 0)]
    pruned = prune(world.engine, world.redis, DAYS, quarantine=True)
    assert pruned == [Pruned("levelq_ledger", 0, 0), Pruned("levelq_quarantine", 1, 1)]


def test_a_dry_run_counts_and_removes_nothing(world: World) -> None:
    commands = applied(world, 6)
    age(world, commands[:4])
    world.send(commands[1])
    assert prune(world.engine, world.redis, DAYS, dry_run=True, batch=2) == [Pruned("levelq_ledger", 3, 1)]
    assert remembered(world) == ids(commands)


def test_each_batch_is_committed_and_locks_only_what_it_removes(world: World) -> None:
    commands = applied(world, 6)
    age(world, commands[:4])
    seen: list[tuple[int, int]] = []
    with psycopg.connect(world.settings.database_url or "", autocommit=True) as observer:

        def look(table: str, removed: int) -> None:
            free = observer.execute("SELECT FROM levelq_ledger FOR UPDATE NOWAIT")
            seen.append((removed, free.rowcount))

        prune(world.engine, world.redis, DAYS, batch=2, step=look)
    assert seen == [(2, 4), (4, 2)]


def test_workers_go_on_meanwhile(world: World) -> None:
    commands = applied(world, 4)
    age(world, commands)
    steps: list[int] = []

    def work(table: str, removed: int) -> None:
        steps.append(removed)
        push(world.worker, [up(7, 100), up(9, 1)])
        world.drain()

    assert prune(world.engine, world.redis, DAYS, batch=1, step=work) == [Pruned("levelq_ledger", 4, 0)]
    assert len(remembered(world)) == 8


@pytest.mark.parametrize("short", [timedelta(0), timedelta(minutes=59), timedelta(days=-1)])
def test_too_short_an_age_is_refused(world: World, short: timedelta) -> None:
    with pytest.raises(
        ConfigurationError, match=r"--older-than: expected at least 1:00:00 \(1h\), got .*: a command that is"
    ):
        prune(world.engine, world.redis, short)


def test_nothing_is_removed_when_it_cannot_be_known_what_stands_in_the_lanes(world: World) -> None:
    commands = applied(world, 2)
    age(world, commands)
    with pytest.raises(RedisError):
        prune(world.engine, connect("unix:///nowhere.sock", 1.0), DAYS)
    assert remembered(world) == ids(commands)


def run(world: World, *arguments: str, **environment: str) -> Any:
    """The command by itself, as the command line registers it."""
    app = typer.Typer()
    app.command()(prune_command.prune)
    return CliRunner().invoke(app, arguments, env=world.settings.environment() | environment)


def test_the_command_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    commands = applied(world, 3)
    age(world, commands[:2])
    world.send(commands[0])
    for arguments, removed in ((["--dry-run"], "would be removed"), (["--quarantine"], "removed")):
        done = run(world, "--older-than", "30d", *arguments)
        assert done.exit_code == 0
        kept = "1 old row kept: still waiting in a lane or the outbox"
        assert f"levelq_ledger: 1 row {removed}, {kept}\n" in done.output + capsys.readouterr().out
    assert remembered(world) == ids([commands[0], commands[2]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("30", "--older-than: expected a number and a unit (s, m, h, d, w), like 30d or 12h, got '30'"),
        ("1y", "--older-than: expected a number and a unit (s, m, h, d, w), like 30d or 12h, got '1y'"),
        ("999999w", "--older-than: expected a number and a unit (s, m, h, d, w), like 30d or 12h, got '999999w'"),
        ("5m", "--older-than: expected at least 1:00:00 (1h), got 0:05:00: a command that is sent again"),
    ],
)
def test_the_command_line_refuses_an_age_that_is_none(world: World, given: str, message: str) -> None:
    done = run(world, "--older-than", given)
    assert isinstance(done.exception, ConfigurationError)
    assert str(done.exception).startswith(message)


def test_ages_that_can_be_read() -> None:
    assert options.age_of("x", "90M") == timedelta(minutes=90)
    assert options.age_of("x", " 2w ") == timedelta(weeks=2)
