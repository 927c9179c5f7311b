"""`levelq drain`: wakes the drains, and waits until nothing is left."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from .options import AsJson, OfCatalog, age_of
from .screen import count, one_line, out, print_json, print_line, refused, verdict

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from levelq_core.lanes.client import Lanes
    from levelq_core.lanes.wakeups import Waker
    from levelq_core.operations.backlog import Backlog
    from levelq_core.settings import Settings

_POLL_SECONDS = 0.2
_STILL_SECONDS = 5.0  # without progress, after which the reasons are shown


def drain(
    specialization: OfCatalog = None,
    wait: Annotated[bool, Option("--wait", help="Wait until nothing is left in lanes and outbox.")] = False,
    timeout: Annotated[str | None, Option(metavar="TIME", help="Give up after 30s or 10m; default: never.")] = None,
    as_json: AsJson = False,
) -> None:
    """Wake the drains of specializations, and with --wait return when nothing waits.

    For deploys and tests. It applies nothing itself: workers must run. If the number does not go down for 5 s, it
    shows why: paused, parked, no worker. Exit code 1 at the timeout.
    """
    from levelq_core.lanes.wakeups import Waker
    from levelq_core.operations.backlog import wake_drains

    from .connections import database_of, known_specializations, lanes_of, load, redis_of, refuse_foreign_lanes

    if timeout is not None and not wait:
        raise refused("--timeout: expected --wait with it")
    limit = math.inf if timeout is None else age_of("--timeout", timeout).total_seconds()
    settings = load()
    names = known_specializations(settings, specialization or [])
    refuse_foreign_lanes(settings)
    database = nullcontext() if settings.database_url is None else database_of(settings)
    with database as engine, lanes_of(settings) as lanes, redis_of(settings, rq=True) as rq:
        waiting = _Waiting(settings, names, lanes, Waker(lanes.redis, rq, settings.keys), engine, quiet=as_json)
        woken = wake_drains(lanes, waiting.waker, names)
        left = waiting.run(limit) if wait else waiting.look()
    problems = waiting.problems() if wait and any(left) and not waiting.explained else []
    if as_json:
        print_json({"woken": woken, **left._asdict(), "problems": problems})
    elif wait and any(left):
        print_line(verdict("not done", "bold red", f"  {_shown(left)} left after {timeout}"))
        _print_problems(problems)
    else:
        print_line("done: nothing waits" if not any(left) else f"{count(woken, 'drain')} woken; {_shown(left)}")
    raise Exit(1 if wait and any(left) else 0)


@dataclass
class _Waiting:
    """Waits for the backlog of some specializations."""

    settings: Settings
    names: Sequence[str]
    lanes: Lanes
    waker: Waker
    engine: Engine | None
    quiet: bool
    explained: bool = False  # the reasons for what is left are on the screen

    def look(self) -> Backlog:
        from levelq_core.operations.backlog import backlog

        return backlog(self.lanes, self.engine, self.names)

    def run(self, limit: float) -> Backlog:
        """Until nothing is left, or for `limit` seconds; what is left. Wakes drains as a sweep does."""
        from levelq_core.operations.backlog import wake_drains

        begun = moved = swept = time.monotonic()
        least = math.inf
        with out.status("") if out.is_terminal and not self.quiet else nullcontext() as line:
            while any(left := self.look()):
                now = time.monotonic()
                if now - begun >= limit:
                    break
                if left.commands + left.rows < least:
                    least, moved, self.explained = left.commands + left.rows, now, False
                elif now - moved >= _STILL_SECONDS and not self.explained and not self.quiet:
                    print_line(f"{_shown(left)}, as {_STILL_SECONDS:.0f} s ago")
                    _print_problems(self.problems())
                    self.explained = True
                if line is not None:
                    line.update(_shown(left))
                if now - swept >= self.settings.sweep_seconds:
                    wake_drains(self.lanes, self.waker, self.names)
                    swept = now
                time.sleep(min(_POLL_SECONDS, limit))
        return left

    def problems(self) -> list[str]:
        """Why something may still wait."""
        from levelq_core.operations.readings.status import status

        found = list(status(self.settings).problems)
        return found or ["nothing is wrong: workers are at it, or commands come as fast as they are applied"]


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        print_line(verdict("   why", "dim", f"  {one_line(problem)}"))


def _shown(left: Backlog) -> str:
    held = f"{count(left.claimed, 'lane')} with drains"
    return f"{count(left.commands, 'command')} in lanes ({held}), {count(left.rows, 'row')} in the outbox"
