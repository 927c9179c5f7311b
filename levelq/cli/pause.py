"""`levelq pause`: drains leave something alone; and what `levelq resume` shares with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from .options import AsJson, DryRun, Specializations, Yes, age_of, check_user
from .screen import confirm, count, duration, err, one_line, print_json, print_line, refused

if TYPE_CHECKING:
    from levelq_core.operations.pausing import PauseChange, PauseScope, Pausing
    from levelq_core.operations.readings.pauses import ActivePause
    from levelq_core.settings import Settings

_POLL_SECONDS = 0.1

OneUser = Annotated[int | None, Option("--user", metavar="ID", help="Only this user's lanes.", callback=check_user)]


def pause(
    specialization: Specializations = None,
    user: OneUser = None,
    lasting: Annotated[str | None, Option("--for", metavar="TIME", help="End by itself, after 30m or 1h.")] = None,
    reason: Annotated[str, Option(help="Why; `levelq status` shows it.")] = "",
    wait: Annotated[bool, Option(help="Wait until drains have finished what they hold.")] = True,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Stop drains from taking commands of specializations, or of one user.

    Producers go on: their commands wait, in order. When this returns, no drain applies anything of what is paused.
    It lasts until `levelq resume`, or for the time of --for. It does not hold back direct calls (level_up_atomic).
    Asks only before it pauses the whole namespace. Pausing again changes the end and the reason.
    """
    length = None if lasting is None else age_of("--for", lasting)
    if length is not None and not length:
        raise refused(f"--for: expected more than 0, got {lasting!r}")
    with steering(specialization, user) as (pausing, scope, settings):
        if dry_run:
            print_dry(pausing, scope, as_json)
            return
        if scope.target == "everything":
            if as_json and not yes:
                raise refused("--json: expected --yes with it, because it does not ask")
            confirm("Pause every specialization of this namespace?", yes=yes)
        change = pausing.pause(scope, length, reason)
        if not as_json:
            print_pauses(change.now)
            print_pauses(change.before, "it was ")
        held = _wait(pausing, scope, settings, quiet=as_json) if wait else pausing.in_hand(scope)
        if not as_json:
            print_line(f"{count(held, 'lane')} still with drains" if held else "no drain applies anything of it now")
        print_end(pausing, change, as_json, in_hand=held)


@contextmanager
def steering(names: list[str] | None, user: int | None) -> Iterator[tuple[Pausing, PauseScope, Settings]]:
    """What both commands need, connected."""
    from levelq_core.lanes.lane_editor import LaneEditor
    from levelq_core.lanes.wakeups import Waker
    from levelq_core.operations.pausing import PauseScope, Pausing

    from .connections import database_of, known_specializations, load, redis_of

    settings = load()
    scope = PauseScope(known_specializations(settings, names) if names else None, user)
    database = nullcontext() if settings.database_url is None else database_of(settings)
    with database as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        waker = Waker(redis, rq, settings.keys)
        yield Pausing(engine, LaneEditor(redis, settings), waker, settings), scope, settings


def _wait(pausing: Pausing, scope: PauseScope, settings: Settings, *, quiet: bool) -> int:
    """Until no drain holds what it claimed before, or the pause is over; how many lanes drains still hold.

    Ctrl-C ends the waiting, not the pause.
    """
    printed = 0
    while held := pausing.in_hand(scope):
        if not pausing.look(scope):  # --for has expired, or another operator has resumed: drains claim again
            if not quiet:
                print_line("the pause is over")
            return held
        if held != printed and not quiet:
            most = duration(settings.claim_seconds)
            print_line(f"  waiting for drains to finish {count(held, 'lane')}; those of a dead worker take {most}")
            printed = held
        time.sleep(_POLL_SECONDS)
    return 0


def print_pauses(pauses: Sequence[ActivePause], before: str = "") -> None:
    """One line for what has the same pause."""
    from levelq_core.operations.readings.pauses import described, pause_what

    for (user, how), names in described(pauses).items():
        print_line(f"{pause_what(user, names)}: {before}{one_line(how)}")


def print_dry(pausing: Pausing, scope: PauseScope, as_json: bool) -> None:
    """What is paused of it now."""
    found = pausing.look(scope)
    if as_json:
        print_json({"dry_run": True, "target": scope.target, "before": _records(found)})
        return
    print_line(f"{scope.target}: nothing was changed; {'this is paused' if found else 'it is not paused'}")
    print_pauses(found)


def print_end(pausing: Pausing, change: PauseChange, as_json: bool, **more: Any) -> None:
    """The JSON object, and on stderr why the act is not in the audit."""
    if as_json:
        shown = {"before": _records(change.before), "now": _records(change.now)}
        print_json({"dry_run": False, **shown, **more, "unwritten": pausing.unwritten})
    if pausing.unwritten is not None:
        print_line(f"not written into the audit: {one_line(pausing.unwritten)}", on=err)


def _records(pauses: Sequence[ActivePause]) -> list[Any]:
    return [pause.model_dump(mode="json") for pause in pauses]
