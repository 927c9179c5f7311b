"""`levelq sync`: put one pair of levels in step."""

from __future__ import annotations

from typing import Annotated

from typer import Exit, Option

from .options import Source, Specialization, User
from .screen import err, print_line, refused, verdict


def sync(
    user: User,
    specialization: Specialization,
    source: Annotated[Source, Option(metavar="SIDE", help="progress or license: the side that is copied.")],
) -> None:
    """Put one pair of levels in step at once, without the queue.

    Copies the level of one side to the other, whose row is made if it is missing. Exit code 1 if it is rejected.
    """
    from sqlalchemy.orm import Session

    from levelq_core.coupler.direct import ProgressLicenseCoupler
    from levelq_core.domain import rules
    from levelq_core.domain.commands import SyncLevels, build
    from levelq_core.domain.record import Lane
    from levelq_core.errors import InvalidCommand
    from levelq_core.operations import audit

    from .connections import database_of, load

    command = build(SyncLevels, user_id=user, specialization=specialization, source=source.value)
    settings = load()
    refusal = rules.lane_refusal(Lane(command.specialization, user), settings.tracks, rules.Limits())
    if refusal is not None:
        raise InvalidCommand(refusal)
    with database_of(settings) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        with Session(engine) as session, session.begin():
            coupler = ProgressLicenseCoupler(session, catalog=settings.tracks)
            result = coupler.sync_existing_records_atomic(
                user, command.specialization, command.source, command.command_id
            )
            if result["success"]:
                detail = {"source": source.value, "command_id": str(command.command_id)}
                audit.record(session.connection(), "sync", audit.user_target(user, command.specialization), detail)
    pair = f"{command.specialization} of user {user}"
    if result["success"]:
        done = f"  {pair}: {result['action'].replace('_', ' ')}, level {result['final_level']}"
        print_line(verdict("applied", "bold green", done))
    elif result["error_type"] == "validation_error":
        print_line(verdict("rejected", "bold red", f"  {pair}: {result['message']}"))
    else:
        raise refused(f"LEVELQ_DATABASE_URL: {pair} not synced: {result['message']}")
    print_line(f"command {command.command_id}", "dim", on=err)
    raise Exit(0 if result["success"] else 1)
