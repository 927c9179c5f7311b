"""`levelq worker` on one core, of which its seats believe that it is never idle."""

from __future__ import annotations

import os
import sys
import time

from levelq.cli import main
from levelq_worker.support import seats

MODULE = "tests.support.crowded_worker"

if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seats.ENOUGH_SECONDS = 0.02  # of a drain, to judge by: a few batches
    seats.idle_and_all = lambda cores: (0, time.monotonic_ns())
    sys.exit(main())
