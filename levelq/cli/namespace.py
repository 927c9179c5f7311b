"""`levelq namespace show` and `rebind`: the database that the namespace of the Redis keys is bound to."""

from __future__ import annotations

from contextlib import suppress

from .audit import note
from .options import DryRun, Yes
from .screen import confirm, count, print_line, refused


def show() -> None:
    """Show the namespace of the Redis keys and the database it is bound to."""
    from levelq_core.lanes.namespace_binding import bound_to
    from levelq_core.redis_client.url_options import redacted

    from .connections import lanes_of, load

    settings = load()
    with lanes_of(settings) as lanes:
        bound = bound_to(lanes)
    print_line(f"namespace {settings.namespace} at {redacted(settings.redis_url)}")
    print_line(f"  bound to {bound}" if bound else "  not bound yet: the first worker binds it")


def rebind(yes: Yes = False, dry_run: DryRun = False) -> None:
    """Bind the namespace to the database of LEVELQ_DATABASE_URL.

    For a database that replaces another: restored from a backup, moved, upgraded by pg_upgrade. From then on, what
    waits in the lanes is applied to this database. Workers of the other one stop within LEVELQ_SWEEP_SECONDS: stop them
    first, or what they apply until then goes into the other's tables.
    """
    from levelq_core.errors import ConfigurationError
    from levelq_core.lanes.namespace_binding import DatabaseIdentity
    from levelq_core.lanes.partition_directory import partitions
    from levelq_core.operations.identity import ensure_identity, identity_of
    from levelq_core.redis_client.url_options import redacted

    from .connections import database_of, lanes_of, load

    settings = load()
    with database_of(settings) as engine, engine.connect() as connection:
        mine = identity_of(connection) if dry_run else ensure_identity(engine)
    with lanes_of(settings) as lanes:
        raw = lanes.bound()
        bound = None
        with suppress(ConfigurationError):  # something unreadable is replaced, too
            bound = None if raw is None else DatabaseIdentity.decode(raw, lanes.keys.database)
        if bound is not None and bound.same_as(mine):
            print_line(f"namespace {settings.namespace} is bound to {mine} already")
            return
        waiting = sum(lanes.status(partition).waiting for partition in partitions(lanes, settings.tracks))
        print_line(f"namespace {settings.namespace} at {redacted(settings.redis_url)}")
        print_line(f"  is bound to {bound or ('no database' if raw is None else 'something unreadable')}")
        print_line(f"  would be bound to {mine}, with {count(waiting, 'waiting command')}")
        if dry_run:
            return
        confirm("Bind it?", yes=yes)
        if lanes.bind(mine.encode(), raw or b"") != mine.encode():
            raise refused(f"namespace {settings.namespace}: the binding changed meanwhile; run it again")
    note(settings, "namespace rebind", settings.namespace, {"from": bound and str(bound), "to": str(mine)})
    print_line(f"namespace {settings.namespace} is bound to {mine}")
