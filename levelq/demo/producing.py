"""One producer process of the demo: prepares its share of the commands, sends them in two parts.

It speaks JSON lines with the demo: a task in, `ready` before each part, `sent` as it goes, at last `done`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, Settings, SyncLevels
from levelq_producer import Producer

from .scenario import Scenario, Sent

FIRST_PART = 0.8  # of the commands come at once; the rest after the kill
WINDOW = 2_500  # commands in one send_many
ANSWER_SECONDS = 60.0


def main() -> None:
    """Do one task: the first part at a word, the rest at a second one. Stops where the demo goes away."""
    task = json.loads(sys.stdin.readline())
    sends = Scenario(*task["scenario"]).share(task["producer"], task["producers"])
    middle = int(len(sends) * FIRST_PART)
    parts = [windows_of(sends[:middle]), windows_of(sends[middle:])]
    report: dict[str, Any] = {"spans": [], "acknowledged": [], "errors": [], "answers": []}
    asked: list[Any] = []
    with Producer(Settings.load()) as producer:
        for windows in parts:
            tell(ready=True)
            if not sys.stdin.readline():
                return
            begun = time.time()
            asked += send(producer, windows, report)
            report["spans"].append((begun, time.time()))
        report["answers"] = [answer_of(handle) for handle in asked]
    tell(done=report)


def tell(**message: Any) -> None:
    """Say one thing to the demo."""
    print(json.dumps(message), flush=True)  # noqa: T201 - the protocol


def command_of(sent: Sent) -> Command:
    """The public command for what the scenario wants sent."""
    common: dict[str, Any] = {
        "user_id": sent.user_id, "specialization": sent.specialization, "command_id": sent.command_id,
        "reason": "demo",
    }  # fmt: skip
    if sent.kind == "sync_levels":
        return SyncLevels(**common, source=sent.source)
    changes: dict[str, Any] = {
        "xp_change": sent.xp, "sessions_change": sent.sessions, "projects_change": sent.projects,
        "theory_hours_change": sent.theory, "practice_hours_change": sent.practice,
    }  # fmt: skip
    if sent.kind == "set_level":
        return SetLevel(**common, **changes, new_level=sent.level)
    if sent.kind == "adjust":
        return Adjust(**common, **changes, level="earned" if sent.earned else "keep")
    if sent.kind == "reset":
        return Reset(
            **common,
            total_xp=sent.xp,
            completed_sessions=sent.sessions,
            completed_projects=sent.projects,
            theory_hours=sent.theory,
            practice_hours=sent.practice,
            level="earned" if sent.earned else sent.level,
        )
    return LevelUp(
        **common,
        xp_gained=sent.xp,
        sessions_completed=sent.sessions,
        projects_completed=sent.projects,
        theory_hours=sent.theory,
        practice_hours=sent.practice,
    )


def windows_of(sends: list[Sent]) -> list[tuple[list[Command], list[Command]]]:
    """What each call sends: first sends, then the repeated ones, which want an answer."""
    windows = []
    for start in range(0, len(sends), WINDOW):
        part = sends[start : start + WINDOW]
        first = [command_of(sent) for sent in part if sent.fate in ("applied", "rejected")]
        again = [command_of(sent) for sent in part if sent.fate in ("duplicate", "conflict")]
        windows.append((first, again))
    return windows


def send(producer: Any, windows: list[tuple[list[Command], list[Command]]], report: dict[str, Any]) -> list[Any]:
    """Send one part; returns the handles of the repeated sends."""
    asked: list[Any] = []
    for first, again in windows:
        handles = producer.send_many(first)
        asked += producer.send_many(again, reply=True)
        report["acknowledged"] += [str(handle.command_id) for handle in handles if handle.error is None]
        report["errors"] += [repr(handle.error) for handle in handles if handle.error is not None]
        tell(sent=len(first) + len(again))
    return asked


def answer_of(handle: Any) -> tuple[str, str, str | None, bool]:
    """What a repeated send was told: id, status, error, whether as a duplicate."""
    outcome = handle.result(ANSWER_SECONDS)
    return str(outcome.command_id), outcome.status, outcome.error, outcome.duplicate


if __name__ == "__main__":
    main()
