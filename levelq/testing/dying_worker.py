"""A worker process that dies in the middle of its work, at a failpoint that the test names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from levelq_core import failpoints
from levelq_core.errors import InvalidArgument
from levelq_core.settings import Settings
from levelq_worker.process.fork import with_parent
from levelq_worker.process.worker_main import run

WORKER_POINTS = tuple(point for point in failpoints.POINTS if not point.startswith("push "))


@contextmanager
def worker_dying_at(point: str, settings: Settings, *, timeout: float = 30.0) -> Iterator[None]:
    """Run a block beside a real worker process that kills itself (SIGKILL) when it first passes `point`.

    The block's end waits for the death. Then the claims of the dead worker expire (LEVELQ_CLAIM_SECONDS), and another
    worker finishes what it left. Raises InvalidArgument for a name that is not in WORKER_POINTS, AssertionError if the
    worker has not passed it `timeout` seconds after the block, or has ended for another reason.
    """
    if point not in WORKER_POINTS:
        message = f"point: expected one of {', '.join(map(repr, WORKER_POINTS))}, got {point!r}"
        raise InvalidArgument(message, field="point", value=point)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - this module
            [sys.executable, "-m", __name__, point],
            env=os.environ | settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call
        )
        try:
            yield
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no worker died: none passed {point!r} within {timeout:g} s") from None
        finally:
            process.kill()
            process.wait()
        if process.returncode != -signal.SIGKILL:
            output.seek(0)
            printed = output.read().decode(errors="replace").strip()
            raise AssertionError(f"the worker ended with {process.returncode} before {point!r}: {printed[-2000:]}")


def _main(point: str) -> int:
    def die(passed: str) -> None:
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = die
    settings = Settings.load()
    return run(settings, list(settings.tracks), burst=False)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
