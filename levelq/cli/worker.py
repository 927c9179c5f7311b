"""`levelq worker`: worker processes, until they are stopped."""

from __future__ import annotations

from typing import Annotated

from typer import Exit, Option

_PROCESSES_HELP = "How many processes to keep alive; default: LEVELQ_PROCESSES."
_SPECIALIZATION_HELP = "Serve only this one; may be repeated."


def worker(
    processes: Annotated[int | None, Option(min=1, max=256, help=_PROCESSES_HELP)] = None,
    burst: Annotated[bool, Option("--burst", help="Stop when nothing is left but lanes parked for later.")] = False,
    specialization: Annotated[list[str] | None, Option("--specialization", "-s", help=_SPECIALIZATION_HELP)] = None,
) -> None:
    """Apply waiting commands, until stopped.

    Keeps worker processes alive until SIGTERM or Ctrl-C, then lets their batches finish and exits with 0.
    """
    from levelq_worker.process.supervisor import supervise

    from .connections import known_specializations, load

    settings = load()
    names = known_specializations(settings, specialization or [])
    raise Exit(supervise(settings, processes or settings.processes, names, burst))
