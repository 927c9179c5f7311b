"""The direct caller of the demo: `level_up_atomic` on its own session, beside the queue, for the same users."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from levelq.laboratory.processes import read_task, report, stop_at_next_word, wait_for_word
from levelq_core import Settings, level_up_atomic
from levelq_core.database.engine import engine_for

from .scenario import Lane, Scenario

_PAUSE_SECONDS = 0.01  # between two calls: an application does other things, too


def main() -> None:
    """Call from the first word until the next one, or until the demo ends."""
    task = read_task()
    stop = threading.Event()
    engine = engine_for(Settings.load(), name="levelq demo direct")
    engine.connect().close()
    if wait_for_word():
        stop_at_next_word(stop)
        with Session(engine) as session:
            report(done={"calls": call(session, Scenario(*task["scenario"]).direct_calls(), stop)})


def call(session: Session, planned: Iterable[tuple[UUID, Lane, int]], stop: threading.Event) -> list[dict[str, Any]]:
    """Level users up until `stop` is set; what each call returned and how long it took."""
    calls = []
    for command_id, (user_id, specialization), xp in planned:
        begun = time.perf_counter()
        result = level_up_atomic(session, user_id, specialization, xp, 1, "demo", command_id)
        calls.append({"id": str(command_id), "result": result, "seconds": time.perf_counter() - begun})
        if stop.wait(_PAUSE_SECONDS):
            break
    return calls


if __name__ == "__main__":
    main()
