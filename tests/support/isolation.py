"""What the tests of the coupler share: commands of many users, what the database refuses, and what was decided."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from levelq_core import Command, LevelUp, Outcome, apply_commands
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import Observed, Seen, ledger, tables

PLAYER = Partition("PLAYER")
MISSING = 5000  # no such user in the application's schema


# An error of the server's state, for user 4.
DISK_FULL = """
    CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER disk_full BEFORE UPDATE ON user_licenses FOR EACH ROW WHEN (NEW.user_id = 4)
        EXECUTE FUNCTION disk_full();
"""


def execute(engine: Engine, *statements: str) -> None:
    """Change the application's database, in one transaction."""
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def raising(table: str, event: str, condition: str, *, does: str = "RAISE EXCEPTION 'not this one'") -> str:
    """A trigger of the application's; `DROP TRIGGER object` ends it."""
    return f"""
        CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NEW; END $$;
        CREATE TRIGGER object BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION object();
    """


def level_up(user_id: int = 1, xp: int = 10, **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp, **fields)


def apply(engine: Engine, commands: Iterable[Command], **options: Any) -> list[Outcome]:
    with engine.begin() as connection:
        return apply_commands(connection, commands, **options)


def experience(engine: Engine) -> dict[int, int]:
    return {user: row["total_xp"] for (user, _), row in tables(engine).progress.items()}


def after_a_drain(worker: Runtime, engine: Engine) -> dict[int, int]:
    Drain(worker, PLAYER).run()
    return experience(engine)


def decided(engine: Engine) -> dict[int, list[tuple[str, str | None]]]:
    """Per user, in the order of effect: the status and the error of each command."""
    found: dict[int, list[tuple[str, str | None]]] = {}
    for row in ledger(engine):
        found.setdefault(row["user_id"], []).append((row["status"], row["error"]))
    return found


USERS = range(1, 501)
DEPTH = 10


def burst(depth: int, bad: Collection[tuple[int, int]] = ()) -> list[LevelUp]:
    """Round by round one command for every user; the bad ones (user, round) have an author who does not exist."""
    return [
        level_up(user, 1000, advanced_by=MISSING) if (user, n) in bad else level_up(user, 1)
        for n in range(depth)
        for user in USERS
    ]


def push_at_once(worker: Runtime, commands: Sequence[Command], partition: Partition = PLAYER) -> None:
    lanes: dict[int, list[bytes]] = {}
    for command in commands:
        lanes.setdefault(command.user_id, []).append(encode(command))
    (answer,) = worker.lanes.push([(partition, list(lanes.items()))])
    assert not isinstance(answer, Exception) and {why for _, why in answer.lanes} == {""}


def batches(worker: Runtime) -> list[Seen]:
    assert isinstance(worker.transactions, Observed)
    return worker.transactions.seen


def order(engine: Engine) -> dict[int, list[UUID]]:
    """Per user, the commands in the order of effect."""
    found: dict[int, list[UUID]] = {}
    for row in ledger(engine):
        found.setdefault(row["user_id"], []).append(row["command_id"])
    return found


def sent(commands: Sequence[Command]) -> dict[int, list[UUID]]:
    found: dict[int, list[UUID]] = {}
    for command in commands:
        found.setdefault(command.user_id, []).append(command.command_id)
    return found
