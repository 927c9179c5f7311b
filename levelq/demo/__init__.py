"""`levelq demo`: a load test with a killed worker, on servers of its own, verified twice."""

from __future__ import annotations

from pathlib import Path

from levelq_core.errors import ConfigurationError

__all__ = ["run_demo"]


def run_demo(
    users: int = 1000,
    commands: int = 50_000,
    processes: int = 2,
    picture: Path = Path("demo.png"),
    folder: Path | None = None,
    seed: int | None = None,
) -> int:
    """Run the demo. Returns 0 if every check passed, 1 if one failed, 130 if it was interrupted.

    `folder` keeps the servers' data; a temporary one is used and removed otherwise. The same `seed`
    simulates the same users. Raises ConfigurationError if the servers or a process cannot be started.
    """
    try:
        from .demo import run  # noqa: PLC0415 - needs extras that the rest of the command line can do without
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'levelq[demo]'") from error
    return run(users, commands, processes, picture, folder, seed)
