"""`levelq namespace ...`: the database that the namespace of the Redis keys is bound to."""

from __future__ import annotations

from typing import Annotated

import typer

from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bound_to
from levelq_core.operations.identity import ensure_identity, identity_of
from levelq_core.settings import Settings, redacted
from levelq_worker.support.partition_directory import partitions

from .connecting import database_of, load, redis_of
from .screen import confirm, count, out


def show() -> None:
    """Show the namespace of the Redis keys and the database it is bound to."""
    settings = load()
    with redis_of(settings) as redis:
        bound = bound_to(Lanes(redis, settings))
    out.print(f"namespace {settings.namespace} at {redacted(settings.redis_url)}", markup=False, soft_wrap=True)
    out.print(
        f"  bound to {bound}" if bound else "  not bound yet: the first worker binds it", markup=False, soft_wrap=True
    )


def rebind(
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking, for scripts.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Bind the namespace to the database of LEVELQ_DATABASE_URL.

    For a database that takes the place of another: restored from a backup, moved, upgraded by pg_upgrade. What waits in
    the lanes is applied to this database from then on. Workers of the other stop within LEVELQ_SWEEP_SECONDS: stop them
    first, or what they apply until then goes into the other's tables.
    """
    settings = load()
    with database_of(settings) as engine, engine.connect() as connection:
        mine = identity_of(connection) if dry_run else ensure_identity(engine)
    with redis_of(settings) as redis:
        lanes = Lanes(redis, settings)
        raw = lanes.bound()
        bound = _readable(raw, lanes.keys.database)
        if isinstance(bound, DatabaseIdentity) and bound.same_as(mine):
            out.print(f"namespace {settings.namespace} is bound to {mine} already", markup=False, soft_wrap=True)
            return
        waiting = sum(lanes.status(partition).waiting for partition in partitions(lanes, settings.tracks))
        _say(settings, bound, mine, waiting)
        if dry_run:
            return
        if not yes:
            confirm("Bind it?")
        if lanes.bind(mine.encode(), raw or b"") != mine.encode():
            raise ConfigurationError(f"namespace {settings.namespace}: bound by another meanwhile; run it again")
    out.print(f"namespace {settings.namespace} is bound to {mine}", markup=False, soft_wrap=True)


def _readable(raw: bytes | None, key: str) -> DatabaseIdentity | str:
    """The binding that is there, or what to call it: rebinding also replaces what cannot be read."""
    if raw is None:
        return "no database"
    try:
        return DatabaseIdentity.decode(raw, key)
    except ConfigurationError:
        return "something unreadable"


def _say(settings: Settings, bound: DatabaseIdentity | str, mine: DatabaseIdentity, waiting: int) -> None:
    out.print(f"namespace {settings.namespace} at {redacted(settings.redis_url)}", markup=False, soft_wrap=True)
    out.print(f"  is bound to {bound}", markup=False, soft_wrap=True)
    out.print(f"  would be bound to {mine}, with {count(waiting, 'waiting command')}", markup=False, soft_wrap=True)
