"""Trials for the operator: problems planted in a system under load, found with one command, ended as documented.

    .venv/bin/python -m benchmarks.trials                  # all of them, a quarter of an hour
    .venv/bin/python -m benchmarks.trials hot-user drift
    .venv/bin/python -m benchmarks.trials --plant drift    # keep it until Enter: try it with the runbook
    .venv/bin/python -m benchmarks.trials --plant '?7'     # the same, without a word on what it is

Two workers on embedded servers, 200 commands a second over 2,000 users, 100,000 pairs of levels. Each problem is
planted as it happens in life. The command that docs/how-to/runbook.md names runs again and again until its output names
the problem. Then the documented steps end it. At the end `levelq status` has no problem, nothing waits, every command
that was queued took effect once, and all levels are in step.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import NamedTuple

from rich.table import Table

from benchmarks.command import options, temporary_site, wide_console

from .problems import PROBLEMS, Problem
from .system import Ran, System

NAMED_SECONDS, ENDED_SECONDS = 60.0, 180.0
BY_NAME = {problem.name: problem for problem in PROBLEMS}


class Trial(NamedTuple):
    """A problem, found and ended: the seconds from planting to its name, of that call, and from there to its end."""

    name: str
    command: str
    named_seconds: float
    call_seconds: float
    steps: list[str]
    ended_seconds: float


def run(system: System, problem: Problem) -> Trial:
    """Plant it, find it, end it. Raises AssertionError with the last output."""
    planted = time.monotonic()
    problem.plant(system)
    call, found = await_output(system, problem.command, problem.says, NAMED_SECONDS)
    named = time.monotonic()
    steps = list(problem.end(system, found))
    await_output(system, ("status",), r"^(?!.* wrong )", ENDED_SECONDS)
    ended = time.monotonic()
    faults = system.faults()
    assert not faults, f"{problem.name}: {'; '.join(faults)}"
    command = f"levelq {' '.join(problem.command)}"
    return Trial(problem.name, command, named - planted, call.seconds, steps, ended - named)


def await_output(system: System, command: Sequence[str], says: str, seconds: float) -> tuple[Ran, re.Match[str]]:
    """Run a command until its output says something. Raises AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        ran = system.levelq(*command)
        if found := re.search(says, ran.shown):
            return ran, found
        assert time.monotonic() < deadline, f"levelq {' '.join(command)}, no {says!r} in {seconds:g} s: {ran.shown}"


def table(trials: Sequence[Trial]) -> Table:
    """As on the page, beside the rows of the runbook's first table."""
    shown = Table("Problem", "Found with", "Named after", "One call", "Ended with", "Ended after")
    for trial in trials:
        seconds = (f"{value:.1f} s" for value in (trial.named_seconds, trial.call_seconds, trial.ended_seconds))
        named, call, ended = seconds
        shown.add_row(trial.name, trial.command, named, call, "\n".join(trial.steps), ended)
    return shown


def hold(system: System, wanted: str) -> None:
    """Plant a problem, and wait for Enter, SIGINT or SIGTERM."""
    secret = wanted.startswith("?")
    problem = Random(wanted).choice(PROBLEMS) if secret else BY_NAME[wanted]
    problem.plant(system)
    for name, value in system.environment.items():
        print(f"export {name}='{value}'")
    print(f"\n{'A problem' if secret else problem.name} is planted. Enter ends the system.", flush=True)
    with suppress(KeyboardInterrupt):
        if not sys.stdin.readline():  # without a terminal, only a signal ends it
            threading.Event().wait()
    left = system.levelq("status").shown.partition(" wrong ")[2]
    print(f"It was {problem.name}. " + (f"levelq status still says: {left}" if left else "levelq status: all is well."))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("name", nargs="*", choices=[*BY_NAME, []], help="the problems; default: all")
    parser.add_argument("--plant", metavar="NAME|?SEED", help="plant one, print the environment, wait")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.plant and not given.plant.startswith("?") and given.plant not in BY_NAME:
        parser.error(f"--plant: expected ?SEED or one of {', '.join(BY_NAME)}, got {given.plant!r}")
    console = wide_console()
    trials: list[Trial] = []
    with temporary_site() as site, System(site) as system:
        if given.plant:
            hold(system, given.plant)
            return
        try:
            for name in given.name or BY_NAME:
                trials.append(run(system, BY_NAME[name]))
                print(f"{name}: named after {trials[-1].named_seconds:.1f} s", file=sys.stderr, flush=True)
        finally:
            if given.json:
                print(json.dumps([trial._asdict() for trial in trials], indent=1))
            else:
                console.print(table(trials))


if __name__ == "__main__":
    main()
