"""`levelq rejected list|show|retry|discard`: what to do about commands that were rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from typer import Argument, Option

from .options import AsJson, DryRun, JsonWithoutQuestion, OfReason, OfSpecialization, OfUser, Since, Until, Yes
from .redrive import (
    Acted,
    Force,
    Listed,
    Timeout,
    Wait,
    discard_each,
    print_facts,
    print_listed,
    retry_each,
    selection_of,
    show_each,
)
from .screen import Cell, Listing, one_line, print_json, print_line, verdict, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from levelq_core.operations.readings.rejected import RejectedCommand

Ids = Annotated[list[UUID] | None, Argument(metavar="ID", help="Only these commands, settled or not.")]
OfError = Annotated[
    str | None, Option("--error", metavar="NAME", help="Only validation_error, database_error or cancelled.")
]

_COUNTED = 1_000  # the newest, among which the reasons are counted
_REASONS = 10  # that are listed
_UNDECIDED = {"undecided": "not decided yet"}
_COLUMNS = {"Lanes": "specialization", "Command": "kind", "Why": "message"}


def list_(
    ids: Ids = None,
    user: OfUser = None,
    specialization: OfSpecialization = None,
    error: OfError = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    settled: Annotated[bool, Option("--all", help="Also what was retried, discarded or cancelled.")] = False,
    limit: Listed = 50,
    show_ids: Annotated[bool, Option("--ids", help="Show the commands' ids, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List rejected commands that wait for an operator, newest first, and how often each reason occurs.

    The reasons are those of the newest 1,000 that match. What was retried, discarded or cancelled is left out, unless
    --all is given or the ids.
    """
    from levelq_core.operations.readings.rejected import REJECTED

    from .connections import database_of, load

    selection = selection_of(ids, user, specialization, reason, since, until, error, settled=settled)
    with database_of(load()) as engine:
        found = REJECTED.newest(engine, selection, limit=limit + 1 if as_json else max(limit, _COUNTED) + 1)
    if as_json:
        rows = [one.model_dump(mode="json") for one in found[:limit]]
        print_json({"commands": rows, "more": len(found) > limit})
        return
    columns = ["When (UTC)", "User", "Command", "Why", "Command id"][: 5 if show_ids else 4]
    shown = Listing(*columns, folding="Why")
    for one in found[:limit]:
        lane = f"{one.user_id} {one.specialization}"
        shown.add(*[when(one.at), lane, one.kind, _why(one), str(one.command_id)][: len(columns)])
    print_listed(shown, len(found), limit, "rejected command")
    if len(found) > 1:
        _print_reasons(found[:_COUNTED])


def _print_reasons(found: Sequence[RejectedCommand]) -> None:
    """How often each reason occurs, with the latest user as an example."""
    from levelq_worker.redrive.plan import alike

    shown = Listing("Number", "For example", "Why", right=("Number",), folding="Why")
    for group in alike(found, lambda one: f"{one.error}: {one.message}")[:_REASONS]:
        one = group[0]
        shown.add(len(group), f"{one.user_id} {one.specialization}", f"{one.error}: {one_line(one.message)}")
    shown.print()


def show(ids: Annotated[list[UUID], Argument(metavar="ID", help="The commands' ids.")]) -> None:
    """Show all that is known of rejected commands, and what a retry would do."""
    from levelq_worker.redrive.rejected import Retrying

    show_each(Retrying, ids, _show)


def retry(
    ids: Ids = None,
    user: OfUser = None,
    specialization: OfSpecialization = None,
    error: OfError = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    limit: Acted = 1_000,
    force: Force = False,
    wait: Wait = False,
    timeout: Timeout = 30.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JsonWithoutQuestion = False,
) -> None:
    """Send rejected commands once more, in the order of the ledger.

    Each as a new command of the same content, whose id follows from the old one: a second retry of a command changes
    nothing. Refused, unless forced: what would come after newer commands of its lane, and what the rules would reject
    again. Exit code 1 if some were refused or left or, with --wait, rejected again.
    """
    from levelq_worker.redrive.rejected import Retrying

    selection, seconds = selection_of(ids, user, specialization, reason, since, until, error), timeout if wait else None
    retry_each(Retrying, selection, limit, force=force, seconds=seconds, yes=yes, dry_run=dry_run, as_json=as_json)


def discard(
    ids: Ids = None,
    user: OfUser = None,
    specialization: OfSpecialization = None,
    error: OfError = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    limit: Acted = 1_000,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JsonWithoutQuestion = False,
) -> None:
    """Settle rejected commands without a retry.

    They leave `levelq rejected list` and the number of open ones in `levelq status`. Their ledger rows stay, so a
    second send of the same id still has no effect.
    """
    from levelq_worker.redrive.rejected import Retrying

    selection = selection_of(ids, user, specialization, reason, since, until, error)
    discard_each(Retrying, selection, _COLUMNS, limit, yes=yes, dry_run=dry_run, as_json=as_json)


def _show(one: RejectedCommand) -> None:
    print_line(verdict("rejected", "bold red", f"  {when(one.at)} UTC  user {one.user_id} {one.specialization}"))
    print_facts(one.facts())


def _why(one: RejectedCommand) -> Cell:
    became = (
        f"; retried: {_UNDECIDED.get(one.retry.status, one.retry.status)}"
        if one.retry
        else f"; {one.settled}"
        if one.settled
        else ""
    )
    return verdict(one.error, "red", f": {one_line(one.message)}{became}")
