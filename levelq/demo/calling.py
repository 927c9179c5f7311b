"""The direct caller of the demo: `level_up_atomic` on a session of its own, beside the queue, on the same learners."""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import islice
from typing import Any

from sqlalchemy.orm import Session

from levelq_core import Settings, level_up_atomic
from levelq_core.database.engine import engine_for

from .producing import tell
from .scenario import Scenario

MOST_CALLS = 1_000_000
PAUSE_SECONDS = 0.01  # between two calls: an application that does other things, too


def main() -> None:
    """Call from the first line after the task until the next line, or until the demo goes away."""
    task = json.loads(sys.stdin.readline())
    stop = threading.Event()
    engine = engine_for(Settings.load(), name="levelq demo direct")
    engine.connect().close()
    tell(ready=True)
    if not sys.stdin.readline():
        return
    threading.Thread(target=_stop_at_the_next_line, args=(stop,), daemon=True).start()
    with Session(engine) as session:
        tell(done={"calls": call(session, Scenario(*task["scenario"]), MOST_CALLS, stop)})


def _stop_at_the_next_line(stop: threading.Event) -> None:
    sys.stdin.readline()
    stop.set()


def call(session: Session, scenario: Scenario, most: int, stop: threading.Event | None = None) -> list[dict[str, Any]]:
    """Level users up, `most` times or until told to stop; what was asked and answered, and how long each took."""
    stop = stop or threading.Event()
    calls = []
    for command_id, user_id, specialization, xp, sessions in islice(scenario.direct_calls(), most):
        begun = time.perf_counter()
        result = level_up_atomic(session, user_id, specialization, xp, sessions, "demo", command_id)
        seconds = time.perf_counter() - begun
        calls.append({
            "command_id": str(command_id), "user_id": user_id, "specialization": specialization, "xp": xp,
            "sessions": sessions, "result": result, "seconds": seconds,
        })  # fmt: skip
        if stop.wait(PAUSE_SECONDS):
            break
    return calls


if __name__ == "__main__":
    main()
