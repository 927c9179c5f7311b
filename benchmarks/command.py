"""What the benchmarks' command lines share."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

from levelq.server_account import temporary_folder

from .site import Site

T = TypeVar("T")


def options(description: str | None) -> ArgumentParser:
    """A parser whose help shows a module's docstring as it is."""
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


def wide_console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@contextmanager
def temporary_site() -> Iterator[Site]:
    """A site whose files are removed with it."""
    with temporary_folder("levelq-bench-") as folder, Site(folder / "site") as site:
        yield site


class Timed:
    """Runs what is measured, and prints how long that took."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def timed(self, what: str, work: Callable[[], T]) -> T:
        begun = time.monotonic()
        found = work()
        self.console.print(f"[dim]{time.monotonic() - begun:6.1f} s[/]  {what}")
        return found
