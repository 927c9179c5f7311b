"""Commands that run until they are stopped: the demo, the embedded servers, the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.support.safe_log import log_safely

from .connecting import load


def demo(
    users: Annotated[int, typer.Option(min=1, help="How many users to simulate.")] = 1000,
    commands: Annotated[int, typer.Option(min=1, help="How many commands they send.")] = 50_000,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many worker processes serve them.")] = 2,
    picture: Annotated[Path, typer.Option(help="Where to save the picture of backlog and throughput.")] = Path(
        "demo.png"
    ),
) -> None:
    """Watch a burst of level-ups, and its result verified.

    On embedded servers, a worker killed in the middle. Takes less than a minute; exit code 1 if any check
    fails. Needs levelq\\[demo].
    """
    from levelq.demo import run_demo  # noqa: PLC0415 - brings psutil and the servers, which only the demo needs

    raise typer.Exit(run_demo(users, commands, processes, picture, None))


def up(
    data: Annotated[Path, typer.Option(help="The folder that keeps the data; made if absent.")] = Path("levelq-data"),
) -> None:
    """Run PostgreSQL and Valkey until Ctrl-C.

    They come from wheels, without Docker or root, and keep their data in a folder. Creates levelq's tables and
    prints both URLs as export lines to paste into another terminal. For development; needs levelq\\[embedded].
    """
    from .embedding import run_servers  # noqa: PLC0415 - needs levelq[embedded]

    run_servers(data)


def worker(
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="Worker processes to keep alive; LEVELQ_PROCESSES if not given.")
    ] = None,
    burst: Annotated[
        bool, typer.Option("--burst", help="Stop when nothing is left but lanes parked for later.")
    ] = False,
    specialization: Annotated[
        list[str] | None, typer.Option("--specialization", "-s", help="Serve this one only; may be repeated.")
    ] = None,
) -> None:
    """Apply what waits in the lanes, until stopped.

    Keeps worker processes alive until SIGTERM or Ctrl-C, then lets their batches finish and exits 0.
    """
    settings = load()
    names = known_specializations(settings, specialization or [])
    log_safely()
    from levelq_worker.process.supervisor import supervise  # noqa: PLC0415 - brings RQ, which no other command needs

    raise typer.Exit(supervise(settings, processes or settings.processes, names, burst))


def known_specializations(settings: Settings, wanted: list[str]) -> list[str]:
    """Names folded to upper case, without repeats; all of the catalog for none. Raises ConfigurationError."""
    names = list(dict.fromkeys(name.upper() for name in wanted)) or list(settings.tracks)
    for name in names:
        if name not in settings.tracks:
            raise ConfigurationError(f"--specialization: expected one of {', '.join(settings.tracks)}, got {name!r}")
    return names
