"""The name by which alerts, claims and the ledger call this worker process: `host:pid`."""

from __future__ import annotations

import os
import socket


def worker_name() -> str:
    """The name of this process, also after a fork."""
    return f"{socket.gethostname()}:{os.getpid()}"
