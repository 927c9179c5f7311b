"""`levelq worker` that counts its claims: python -m benchmarks.scaling.counted worker --processes 4.

Each process leaves its counts in $LEVELQ_COUNTS when it ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from levelq.cli import main
from levelq_core.lanes import drain_lanes
from levelq_worker.draining.claims import Claims, HeldClaim
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.transaction import Transaction

FOLDER = "LEVELQ_COUNTS"
counts: Counter[str] = Counter()


def read(folder: Path) -> Counter[str]:
    """The counts of all processes, and forget them."""
    total: Counter[str] = Counter()
    for file in folder.glob("*.counts"):
        total.update(json.loads(file.read_text()))
        file.unlink()
    return total


def _claimed(claim: Callable[[Claims], HeldClaim]) -> Callable[[Claims], HeldClaim]:
    def counted(self: Claims) -> HeldClaim:
        begun = time.perf_counter_ns()
        held = claim(self)
        counts["waited_ns"] += time.perf_counter_ns() - begun
        counts["claims"] += 1
        counts["empty"] += not held.claim.lanes
        counts["lanes"] += len(held.claim.lanes)
        counts["entries"] += held.claim.entries
        return held

    return counted


def _noting(note: Callable[[Any], object]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function tell `note` what it returns."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            found = function(*args)
            note(found)
            return found

        return counted

    return wrap


def _leave(_: None) -> None:
    (Path(os.environ[FOLDER]) / f"{os.getpid()}.counts").write_text(json.dumps(counts))


def count() -> None:
    """Have this process, and those it forks, count."""
    patched: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (Claims, "claim", _claimed),
        (drain_lanes, "_acked", _noting(lambda removed: counts.update(lost=removed.count(-1)))),
        (Transaction, "decide", _noting(lambda parked: counts.update(parked=len(parked)))),
        (Transaction, "confirm_commit", _noting(lambda _: counts.update(batches=1))),
        (Drain, "run", _noting(lambda _: counts.update(drains=1))),
        (Runtime, "close", _noting(_leave)),
    ]
    for kind, name, wrap in patched:
        setattr(kind, name, wrap(getattr(kind, name)))


if __name__ == "__main__":
    count()
    sys.exit(main())
