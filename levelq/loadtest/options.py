"""The options of a load test, and the checks that need no server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from levelq.laboratory.shutdown import require_empty
from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings

from .scenarios import Scenario


class LoadTestOptions(NamedTuple):
    """`external`: on the servers of the settings; `first_user`: the id of the first account, 1 if not given."""

    scenario: Scenario
    seed: int | None = None
    processes: int | None = None
    senders: int = 2
    out: Path = Path("loadtest.html")
    external: bool = False
    allow_remote: bool = False
    first_user: int | None = None
    foreign_writes: bool = False
    keep: Path | None = None

    @property
    def workers(self) -> int:
        """How many worker processes to start."""
        return self.processes if self.processes is not None else 0 if self.external else 2

    @property
    def users(self) -> range:
        """The ids of the accounts."""
        first = self.first_user or 1
        return range(first, first + self.scenario.accounts)

    @property
    def command(self) -> str:
        """The command that repeats the test."""
        s = self.scenario
        burst = f" --burst {s.burst} --every {s.every:g}" if s.burst else ""
        external = f" --external --first-user {self.first_user}" if self.external else ""
        return (
            f"levelq loadtest --scenario {s.name} --users {s.users} --accounts {s.accounts} --rate {s.rate:g}"
            f" --seconds {s.seconds:g}{burst} --senders {self.senders} --processes {self.workers}{external}"
            f" --seed {self.seed}"
        )


def check(settings: Settings, options: LoadTestOptions) -> None:
    """Raise ConfigurationError for impossible options. Starts nothing and changes nothing."""
    if options.external:
        if options.first_user is None:
            raise ConfigurationError(
                "--first-user: expected with --external, got none: these users of that database will gain levels"
            )
        if not options.allow_remote:
            from .remote_guard import refuse_remote  # noqa: PLC0415 - looks up names only where it has to

            refuse_remote(settings)
    elif options.workers == 0:
        raise ConfigurationError("--processes: expected at least 1 without --external, got 0")
    out = options.out.resolve()
    if out.is_dir() or not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigurationError(f"--out: expected a file in a folder that can be written, got {str(options.out)!r}")
    require_empty("--keep", options.keep)
