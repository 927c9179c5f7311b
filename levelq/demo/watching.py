"""The console on the demo's servers, for those who watch the burst in a browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from rich.console import Console as Terminal

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings

HOST, PORT = "127.0.0.1", 8420


class Watched(NamedTuple):
    """The console's address, and whether someone is at the terminal, for whom the demo waits."""

    url: str
    attended: bool


@contextmanager
def watched(settings: Settings, terminal: Terminal) -> Iterator[Watched]:
    """Serve the console of these servers during the block, on port 8420 or, if that is taken, a free one.

    Raises ModuleNotFoundError without levelq[console].
    """
    from levelq.console.console import Console  # noqa: PLC0415 - it needs an extra
    from levelq.console.serving import listen, serving  # noqa: PLC0415

    try:
        listening = listen(HOST, PORT)
    except ConfigurationError:
        listening = listen(HOST, 0)
    with listening, serving(Console(settings), listening, HOST):
        url = f"http://{HOST}:{listening.getsockname()[1]}/"
        terminal.print(f"[bold]console[/] · {url}", soft_wrap=True)
        yield Watched(url, attended=terminal.is_terminal and sys.stdin.isatty())


def await_enter(terminal: Terminal, what: str) -> None:
    """Print what Enter does, and wait for it. Ctrl-C raises KeyboardInterrupt."""
    terminal.print(what, soft_wrap=True)
    sys.stdin.readline()


def stay(found: Watched, terminal: Terminal) -> None:
    """Keep the console until Enter or Ctrl-C; without a terminal it ends with the demo."""
    if found.attended:
        with suppress(KeyboardInterrupt):
            await_enter(terminal, f"The console stays at {found.url}; Enter or Ctrl-C ends it and the servers.")
