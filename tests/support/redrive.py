"""What can be sent once more: commands that were rejected, entries in the quarantine."""

from hashlib import sha256
from uuid import UUID

from levelq_core import Catalog, Command
from tests.support.isolation import apply
from tests.support.system import System

NO_PLAYER = Catalog.of({"COACH": [0, 1000], "INTERNSHIP": [0, 5000]})  # as of a worker with an old catalog


def reject(system: System, *commands: Command, catalog: Catalog | None = NO_PLAYER) -> list[UUID]:
    """Have the database decide commands by a catalog that lacks PLAYER; their ids."""
    outcomes = apply(system.engine, commands, catalog=catalog)
    assert {outcome.error for outcome in outcomes} <= {"validation_error"}
    return [command.command_id for command in commands]


def stamped(payload: bytes) -> bytes:
    """The entry of what was pushed long ago."""
    return b"1764460800000" + payload


def put_into_quarantine(
    system: System, user: int | None, raw: bytes, reason: str = "over the payload limit", length: int | None = None
) -> None:
    """As a worker did it some minutes ago."""
    with system.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO levelq_quarantine (specialization, user_id, reason, raw, length, sha256, at) "
            "VALUES ('PLAYER', %s, %s, %s, %s, %s, now() - interval '3 minutes')",
            (user, reason, raw[:4096], len(raw) if length is None else length, sha256(raw).digest()),
        )
