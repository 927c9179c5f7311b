"""What a way of doing the work has to offer to be measured."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from ..site import Site
from ..workload import Grant


class Promises(NamedTuple):
    """What it keeps, in a word or two each."""

    order: str
    once: str
    killed: str


class Rival(Protocol):
    """Fill with work, then start two worker processes; `share` says how much of the work is enough to measure it."""

    name: str
    how: str
    promises: Promises
    most: int  # commands that take it some ten seconds

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        """Queue all of it, with no worker running."""

    def work(self, site: Site) -> AbstractContextManager[list[subprocess.Popen[bytes]]]:
        """Two worker processes."""
