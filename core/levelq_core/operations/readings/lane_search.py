"""Finds the lane of a command by its id alone: in the ledger, in the outbox, or in a lane."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Engine, text

from levelq_core.database.table_names import LEDGER, OUTBOX
from levelq_core.domain.record import Lane
from levelq_core.errors import ConfigurationError
from levelq_core.lanes import scan
from levelq_core.lanes.protocol import FOUND_AMONG
from levelq_core.operations.connections import database_of, redis_of
from levelq_core.settings import Settings

TOO_MANY = "--command"  # the `setting` of the error if too many commands wait to search them all


def find_lane(settings: Settings, command_id: UUID, *, engine: Engine | None = None) -> Lane | None:
    """The lane of a command; None if it is not found, which may mean that it was just decided.

    `engine`: to use instead of LEVELQ_DATABASE_URL; without either, only the lanes are searched. Raises
    ConfigurationError if a server cannot be read, or if it is not found and a partition holds too many commands to
    search them all: FOUND_AMONG of each partition are read.
    """
    if engine is not None or settings.database_url is not None:
        with database_of(settings, engine, name="levelq explain") as used, used.connect() as connection:
            row = connection.execute(_FIND, {"id": command_id}).first()
        if row is not None:
            return Lane(row.specialization, row.user_id)
    full: list[str] = []
    with redis_of(settings) as redis:
        for partition in sorted(scan.partitions(redis, settings)):
            try:
                user = scan.holder(redis, settings.keys, partition, command_id, FOUND_AMONG)
            except scan.TooManyEntries:
                full.append(str(partition))
                continue
            if user is not None and (user_id := scan.user_id_of(user)) is not None:
                return Lane(partition.specialization, user_id)
    if full:
        held = f"{full[0]} and {len(full) - 1} more hold" if len(full) > 1 else f"{full[0]} holds"
        message = f"--command: {held} too many commands to search; give the user's id instead"
        raise ConfigurationError(message, setting=TOO_MANY, value=str(command_id))
    return None


_FIND = text(f"""
    SELECT user_id, specialization FROM {LEDGER} WHERE command_id = :id AND user_id > 0
    UNION ALL
    SELECT user_id, specialization FROM {OUTBOX} WHERE command_id = :id
    LIMIT 1
""")
