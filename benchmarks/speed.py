"""How fast the machine is at the moment: a fixed piece of work, on every core at once, in seconds of processor time.

A machine whose host has other guests changes its speed within minutes by a third, for all that runs on it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from hashlib import sha256
from statistics import mean
from struct import pack, unpack

import psutil

ROUNDS, ROWS = 8, 15_000


def slowness() -> float:
    """Seconds that the work takes, the mean of all cores."""
    command = [sys.executable, "-m", __name__]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(psutil.cpu_count() or 1)]
    return mean(float(process.communicate()[0]) for process in running)


def work() -> None:
    """What a worker does: pack and unpack, hash, sort, fill dictionaries."""
    for _ in range(ROUNDS):
        rows = [(n * 7919 % ROWS, pack("<qqd", n, n * n, n / 7)) for n in range(ROWS)]
        rows.sort()
        lanes: dict[int, list[tuple[int, int, float]]] = {}
        for key, row in rows:
            lanes.setdefault(key // 3, []).append(unpack("<qqd", row))
        sha256(b"".join(row for _, row in rows)).digest()


if __name__ == "__main__":
    begun = time.process_time()
    work()
    print(time.process_time() - begun)
