"""How fast the machine is: a fixed piece of work, repeated beside what is measured.

A virtual machine that shares its host changes its speed by a third and more within seconds. Results at different
speeds can be compared only if the speeds are known.
"""

from __future__ import annotations

import subprocess
import sys
import time
from hashlib import sha256
from select import select
from statistics import mean
from struct import pack, unpack
from typing import Self

import psutil

ROWS = 1_500  # some three milliseconds of work
PAUSE_SECONDS = 0.1  # together 3 % of a core


class Speedometer:
    """Measures on every core while the block runs; `slowness`: the mean time of the work, in seconds of a processor."""

    slowness = 0.0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__]
        pipe = subprocess.PIPE
        self._running = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(psutil.cpu_count() or 1)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        outputs = [process.communicate("\n")[0] for process in self._running]
        self.slowness = mean(float(line) for output in outputs for line in output.split())


def work() -> None:
    """The kinds of work of a worker: pack and unpack, hash, sort, fill dictionaries."""
    rows = [(n * 7919 % ROWS, pack("<qqd", n, n * n, n / 7)) for n in range(ROWS)]
    rows.sort()
    lanes: dict[int, list[tuple[int, int, float]]] = {}
    for key, row in rows:
        lanes.setdefault(key // 3, []).append(unpack("<qqd", row))
    sha256(b"".join(row for _, row in rows)).digest()


def main() -> None:
    """Work, print how long it took, pause; until stdin has something to read."""
    work()
    while True:
        begun = time.process_time()
        work()
        print(time.process_time() - begun, flush=True)
        if select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            return


if __name__ == "__main__":
    main()
