"""One sending process of the demo: prepares its share of the commands, sends them in two parts, one at each word."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from levelq.laboratory.processes import read_task, report, wait_for_word
from levelq_core import Command, Settings
from levelq_core.operations.verify import Recorder
from levelq_producer import Handle, Producer

from .scenario import Scenario, Send

_FIRST_PART = 0.8  # share of the commands that are sent before the kill
_WINDOW = 2_500  # commands in one send_many
_ANSWER_SECONDS = 60.0

Window = tuple[list[Command], list[Command]]


def main() -> None:
    """Do one task. Ends early if the demo does."""
    task = read_task()
    sends = Scenario(*task["scenario"]).share(task["sender"], task["senders"])
    middle = int(len(sends) * _FIRST_PART)
    spans, repeated = [], []
    with Producer(Settings.load()) as producer, Recorder(Path(task["record"])) as recorder:
        for windows in [prepared(sends[:middle]), prepared(sends[middle:])]:
            if not wait_for_word():
                return
            begun = time.time()
            for window in windows:
                handles = send(producer, window, recorder)
                repeated += handles[len(window[0]) :]
                report(counts={"pushed": len(handles), "failed": sum(handle.error is not None for handle in handles)})
            spans.append((begun, time.time()))
        answers = [answer(handle) for handle in repeated]
    report(done={"spans": spans, "answers": answers})


def prepared(sends: list[Send]) -> list[Window]:
    """What each call sends: commands, and those whose id was sent before, which want an answer."""
    parts = [sends[start : start + _WINDOW] for start in range(0, len(sends), _WINDOW)]
    return [([s.command for s in part if not s.repeated], [s.command for s in part if s.repeated]) for part in parts]


def send(producer: Producer, window: Window, recorder: Recorder) -> list[Handle]:
    """Send and record one window; returns the handles of all its commands."""
    first, repeated = window
    handles = [*producer.send_many(first), *producer.send_many(repeated, reply=True)]
    recorder.sent([*first, *repeated], [handle.error for handle in handles])
    return handles


def answer(handle: Handle) -> dict[str, Any]:
    """The answer to a repeated command."""
    outcome = handle.result(_ANSWER_SECONDS)
    return {"id": str(outcome.command_id), **outcome.model_dump(include={"status", "error", "duplicate"})}


if __name__ == "__main__":
    main()
