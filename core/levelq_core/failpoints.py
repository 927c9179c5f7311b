"""Fault points: named places where tests stop, kill or fail a process. In production `hook` is None.

They are passed once per batch or call, never per command, so an unused one costs some 50 ns each time.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "push request",
    "push reply",
    "tick",
    "claim request",
    "claim reply",
    "decode",
    "begin",
    "lock progress",
    "lock license",
    "ledger",
    "write",
    "copy",
    "commit request",
    "commit reply",
    "ack request",
    "ack reply",
)

hook: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Pass a failpoint; whatever the hook raises is raised here."""
    if hook is not None:
        hook(name)
