"""`levelq sync`: put one pair of levels in step, or with `--all` all of them."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, BadParameter, Exit, Option

from .adopt import Rate, repair
from .options import AnySource, DryRun, JsonWithoutQuestion, Yes, check_user
from .screen import err, never_ask, print_line, refused, verdict


def sync(
    source: Annotated[
        AnySource, Option(metavar="SIDE", help="progress or license: the side that is copied. With --all also higher.")
    ],
    user: Annotated[int | None, Argument(metavar="USER", help="The user's id.", callback=check_user)] = None,
    specialization: Annotated[
        str | None, Argument(metavar="SPECIALIZATION", help="PLAYER, COACH, ...: `levelq catalog` lists them.")
    ] = None,
    every: Annotated[bool, Option("--all", help="All pairs out of step.")] = False,
    only: Annotated[
        list[str] | None, Option("--specialization", "-s", help="With --all: only pairs of this one; repeatable.")
    ] = None,
    rate: Rate = 2_000,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JsonWithoutQuestion = False,
) -> None:
    """Put one pair of levels in step at once, without the queue; with --all, every pair that is out of step.

    Copies the level of one side to the other, whose row is made if it is missing. Exit code 1 if it is rejected, or if
    a pair is left out of step. --all shows how many pairs there are and asks; it repairs in small transactions, and if
    it is interrupted, the next run goes on where it stopped.
    """
    if every:
        if user is not None:
            raise BadParameter("expected either --all or USER SPECIALIZATION")
        never_ask(as_json, yes=yes or dry_run)
        _sync_all(source, only, rate, yes=yes, dry_run=dry_run, as_json=as_json)
        return
    if user is None or specialization is None:
        raise BadParameter("expected USER SPECIALIZATION, or --all")
    for option, given in (("--dry-run", dry_run), ("--json", as_json), ("--specialization", only)):
        if given:  # never act where only a plan was asked for
            raise BadParameter(f"{option}: expected --all with it")
    if source is AnySource.HIGHER:
        raise BadParameter("expected progress or license for one pair, got higher")
    _sync_one(user, specialization, source.value)


def _sync_all(source: AnySource, only: list[str] | None, rate: int, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    from levelq_core.operations.drift.adoption import Adoption

    from .connections import database_of, known_specializations, load

    settings = load()
    names = known_specializations(settings, only) if only else None
    audited = ("sync", ", ".join(names) if names else "everything")
    with database_of(settings, patient=True) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        adoption = Adoption(engine, settings, source.value, names=names, rate=rate, rows=False, audited=audited)
        repair(adoption, settings, yes=yes, dry_run=dry_run, as_json=as_json)


def _sync_one(user: int, specialization: str, source: str) -> None:
    from levelq_core.domain.commands import SyncLevels, build
    from levelq_core.operations.drift.one_pair import require_lane, sync_pair

    from .connections import database_of, load

    command = build(SyncLevels, user_id=user, specialization=specialization, source=source)
    settings = load()
    require_lane(settings, user, command.specialization)
    with database_of(settings) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        result = sync_pair(engine, settings, command)
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
