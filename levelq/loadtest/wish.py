"""What was asked for, and whether it can be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings

from .scenarios import Scenario


class Wish(NamedTuple):
    """What was asked for. `external`: on the servers of the settings; `first_user`: the id of the first account."""

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
    def repeat(self) -> str:
        """The command that asks for the same again."""
        s = self.scenario
        burst = f" --burst {s.burst} --every {s.every:g}" if s.burst else ""
        place = f" --external --first-user {self.first_user}" if self.external else ""
        return (
            f"levelq loadtest --scenario {s.name} --users {s.users} --accounts {s.accounts} --rate {s.rate:g}"
            f" --seconds {s.seconds:g}{burst} --senders {self.senders} --processes {self.workers}{place}"
            f" --seed {self.seed}"
        )


def check(settings: Settings, wish: Wish) -> None:
    """Raise ConfigurationError for what cannot be. Starts nothing and touches nothing."""
    if wish.external:
        if wish.first_user is None:
            raise ConfigurationError(
                "--first-user: expected with --external, got none: these users of that database will gain levels"
            )
        if not wish.allow_remote:
            from .nearness import refuse_remote  # noqa: PLC0415 - looks at interfaces and names only where it has to

            refuse_remote(settings)
    elif wish.workers == 0:
        raise ConfigurationError("--processes: expected at least 1 without --external, got 0")
    out = wish.out.resolve()
    if out.is_dir() or not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise ConfigurationError(f"--out: expected a file in a folder that can be written, got {str(wish.out)!r}")
    if wish.keep is not None and wish.keep.exists() and (not wish.keep.is_dir() or any(wish.keep.iterdir())):
        raise ConfigurationError(f"--keep: expected an empty folder or a new one, got {str(wish.keep)!r}")
