"""`levelq workers`: what each worker process does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.text import Text
from typer import Exit

from .options import AsJson
from .screen import Listing, count, duration, out, per_second, print_json, print_line, told

if TYPE_CHECKING:
    from levelq_core.operations.readings.workers import WorkerStatus

STYLES = {"silent": "bold red", "waiting": "yellow", "idle": "dim"}


def workers(as_json: AsJson = False) -> None:
    """Show what each worker process does, on which host, how fast, and its version.

    A worker reports every two seconds (LEVELQ_SWEEP_SECONDS). One that was stopped, killed or cut off is shown as
    silent for ten minutes. Exit code 1 if one is silent, hangs, or finds the database slow.
    """
    from levelq_core.operations.readings.workers import workers as read

    from .connections import load

    report = read(load())
    if as_json:
        print_json(report)
        raise Exit(1 if report.problems else 0)
    if report.workers:
        numbers = ("PID", "Since", "Rate/s", "Batch", "Memory")
        shown = Listing("Host", "PID", "Version", "Serves", "State", "Since", "Rate/s", "Batch", "Memory",
                        right=numbers, folding="Serves")  # fmt: skip
        now = datetime.now(UTC)
        for worker in report.workers:
            shown.add(
                worker.host,
                str(worker.pid),
                worker.version,
                ", ".join(worker.specializations),
                state_of(worker),
                duration(max(0.0, (now - worker.since).total_seconds())),
                per_second(worker.rate_1_min),
                batch_of(worker),
                memory_of(worker),
            )
        shown.print()
    out.print(count(len(report.workers), "worker"), style="" if report.workers else "bold yellow")
    for line in told(report):
        print_line(line)
    raise Exit(1 if report.problems else 0)


def state_of(worker: WorkerStatus) -> Text:
    """What it does: `draining PLAYER:1:0`, `waiting`, `silent`."""
    busy = worker.state in ("draining", "transaction") and worker.partition
    shown = f"{worker.state} {worker.partition}" if busy else worker.state
    return Text(shown, STYLES.get(worker.state, ""))


def batch_of(worker: WorkerStatus) -> Text | None:
    """Its last batches: `1,000 in 0.045 s`; in red while the database is slow."""
    if worker.batch_seconds is None:
        return None
    text = f"{worker.batch_commands:,} in {worker.batch_seconds:.3f} s"
    return Text(text, "bold red" if worker.slow_since else "")


def memory_of(worker: WorkerStatus) -> str | None:
    """Its resident memory in MiB."""
    return None if worker.memory_bytes is None else f"{worker.memory_bytes / 2**20:,.0f} MiB"
