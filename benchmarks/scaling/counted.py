"""`levelq worker` that counts its claims: python -m benchmarks.scaling.counted worker --processes 4.

Each process leaves its counts in $LEVELQ_COUNTS when it ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from levelq.cli import main
from levelq_core.lanes import drain_lanes
from levelq_worker.draining.claims import Claims, HeldClaim
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.transaction import Transaction, Transactions

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


def _acked(removed_by: Callable[[Any], list[int]]) -> Callable[[Any], list[int]]:
    def counted(reply: Any) -> list[int]:
        removed = removed_by(reply)
        counts["lost"] += removed.count(-1)
        return removed

    return counted


def _decided(decide: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def counted(*args: Any) -> list[Any]:
        parked = decide(*args)
        counts["parked"] += len(parked)
        return parked

    return counted


def _opened(
    open_: Callable[[Transactions], AbstractContextManager[Transaction]],
) -> Callable[[Transactions], AbstractContextManager[Transaction]]:
    @contextmanager
    def counted(self: Transactions) -> Iterator[Transaction]:
        with open_(self) as transaction:
            yield transaction
        counts["batches"] += 1

    return counted


def _drained(run: Callable[[Drain], None]) -> Callable[[Drain], None]:
    def counted(self: Drain) -> None:
        counts["drains"] += 1
        run(self)

    return counted


def _closed(close: Callable[[Runtime], None]) -> Callable[[Runtime], None]:
    def counted(self: Runtime) -> None:
        close(self)
        (Path(os.environ[FOLDER]) / f"{os.getpid()}.counts").write_text(json.dumps(counts))

    return counted


def count() -> None:
    """Have this process, and those it forks, count."""
    patched: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (Claims, "claim", _claimed),
        (drain_lanes, "_acked", _acked),
        (Transaction, "decide", _decided),
        (Transactions, "open", _opened),
        (Drain, "run", _drained),
        (Runtime, "close", _closed),
    ]
    for kind, name, wrap in patched:
        setattr(kind, name, wrap(getattr(kind, name)))


if __name__ == "__main__":
    count()
    sys.exit(main())
