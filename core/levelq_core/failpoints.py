"""Failpoints: named points at which tests stop, kill or fail a process. In production `hook` is None.

Each is passed once per batch or call, never per command.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "push request", "push reply", "tick", "claim request", "claim reply", "decode", "begin", "lock progress",
    "lock license", "ledger", "write", "copy", "commit request", "commit reply", "ack request", "ack reply",
)  # fmt: skip

hook: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Pass a failpoint. Raises what the hook raises."""
    if hook is not None:
        hook(name)
