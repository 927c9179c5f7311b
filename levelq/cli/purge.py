"""`levelq purge`: cancel all that waits."""

from __future__ import annotations

from .cancel import editing, print_cancelled, print_waiting
from .options import DryRun, JsonWithoutQuestion, Specializations, Yes
from .screen import confirm, never_ask, print_json


def purge(
    specialization: Specializations = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JsonWithoutQuestion = False,
) -> None:
    """Cancel all waiting commands of some specializations, or of the namespace.

    In the lanes and in the outbox. Cancelled commands are rejected for good; entries that are no commands are
    quarantined. A command that is sent while this runs may be left: stop the producers first if nothing may be left.
    """
    from levelq_worker.withdrawal.canceller import Cancelled, Canceller
    from levelq_worker.withdrawal.waiting_lanes import Scope

    from .connections import known_specializations, load

    never_ask(as_json, yes=yes or dry_run)
    settings = load()
    names = known_specializations(settings, specialization) if specialization else None
    scope, target = Scope(names), ", ".join(names) if names else "everything"
    with editing(settings) as parts:
        canceller = Canceller(*parts)
        waiting = canceller.look(scope)
        if not as_json:
            print_waiting(waiting, target)
        done = Cancelled()
        if waiting.total and not dry_run:
            confirm("Cancel these commands?", yes=yes)
            done = canceller.run(scope, ("purge", target))
    if as_json:
        seen = {"lanes": waiting.lanes, "in_lanes": waiting.in_lanes, "in_outbox": waiting.in_outbox}
        result = {**done.detail(), "unreadable": sorted(waiting.unreadable | done.unreadable)}
        print_json({"dry_run": dry_run, "waiting": seen, **result})
    elif not dry_run and waiting.total:
        print_cancelled(done)
