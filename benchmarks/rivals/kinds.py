"""What a rival must implement to be measured."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from ..site import Site
from ..workload import Grant

Workers = AbstractContextManager[list[subprocess.Popen[bytes]]]


class Promises(NamedTuple):
    """What it guarantees, in a few words each."""

    order: str
    once: str
    killed: str


class Rival(Protocol):
    """Queues the work, then runs two worker processes."""

    name: str
    how: str
    promises: Promises
    most: int  # commands that take it some ten seconds

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        """Queue all of it, with no worker running."""

    def work(self, site: Site) -> Workers:
        """Two worker processes."""
