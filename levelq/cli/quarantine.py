"""`levelq quarantine list|show|retry|discard`: entries of lanes that were no commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument

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
from .screen import Listing, one_line, print_json, print_line, verdict, when

if TYPE_CHECKING:
    from levelq_core.operations.readings.quarantine import KeptEntry

_MOST = 2**63 - 1  # of a bigint column

Id = Annotated[list[int], Argument(metavar="ID", min=1, max=_MOST, help="The numbers that `list` shows.")]
Ids = Annotated[
    list[int] | None, Argument(metavar="ID", min=1, max=_MOST, help="Only these: the numbers that `list` shows.")
]
_COLUMNS = {"Lanes": "specialization", "Why": "reason"}
_WARNING = " Their bytes are deleted for good."


def list_(
    ids: Ids = None,
    user: OfUser = None,
    specialization: OfSpecialization = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    limit: Listed = 50,
    as_json: AsJson = False,
) -> None:
    """List quarantined entries, newest first."""
    from levelq_core.operations.readings.quarantine import QUARANTINED

    from .connections import database_of, load

    selection = selection_of(ids, user, specialization, reason, since, until)
    with database_of(load()) as engine:
        found = QUARANTINED.newest(engine, selection, limit=limit + 1)
    if as_json:
        rows = [one.model_dump(mode="json") for one in found[:limit]]
        print_json({"entries": rows, "more": len(found) > limit})
        return
    shown = Listing("Id", "When (UTC)", "User", "Bytes", "Why", right=("Id", "Bytes"), folding="Why")
    for one in found[:limit]:
        shown.add(str(one.id), when(one.at), _lane(one), one.length, one_line(one.reason))
    print_listed(shown, len(found), limit, "quarantined entry")


def show(ids: Id) -> None:
    """Show quarantined entries: why, their fields as far as they can be read, and their bytes."""
    from levelq_worker.redrive.quarantined import Returning

    show_each(Returning, ids, _show)


def retry(
    ids: Ids = None,
    user: OfUser = None,
    specialization: OfSpecialization = None,
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
    """Send those quarantined entries to their lanes that this version can read, each under its own id.

    After an update, or with a higher LEVELQ_PAYLOAD_LIMIT. Refused: entries of which only a part is kept, and, unless
    forced, those that would come after newer commands of their lane. Exit code 1 if some were refused or left.
    """
    from levelq_worker.redrive.quarantined import Returning

    selection, seconds = selection_of(ids, user, specialization, reason, since, until), timeout if wait else None
    retry_each(Returning, selection, limit, force=force, seconds=seconds, yes=yes, dry_run=dry_run, as_json=as_json)


def discard(
    ids: Ids = None,
    user: OfUser = None,
    specialization: OfSpecialization = None,
    reason: OfReason = None,
    since: Since = None,
    until: Until = None,
    limit: Acted = 1_000,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JsonWithoutQuestion = False,
) -> None:
    """Delete entries from the quarantine for good. The audit keeps their lengths and hashes."""
    from levelq_worker.redrive.quarantined import Returning

    selection = selection_of(ids, user, specialization, reason, since, until)
    discard_each(Returning, selection, _COLUMNS, limit, warning=_WARNING, yes=yes, dry_run=dry_run, as_json=as_json)


def _show(one: KeptEntry) -> None:
    print_line(verdict("quarantined", "bold yellow", f"  {one.id}  {when(one.at)} UTC  {_lane(one)}"))
    print_facts(one.facts())
    for line in one.dump():
        print_line(f"  {line}")


def _lane(one: KeptEntry) -> str:
    return f"{'-' if one.user_id is None else one.user_id} {one.specialization}"
