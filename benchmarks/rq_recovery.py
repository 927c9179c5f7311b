"""How long plain RQ takes to notice that its worker was killed in the middle of a job, and what becomes of the job.

    .venv/bin/python -m benchmarks.rq_recovery [--minutes 30]

For each kind of RQ worker, with RQ's defaults: a worker and its work horse are killed with SIGKILL during a job, while
another worker of the same kind is idle. Nothing is sped up: RQ's own maintenance has to notice. levelq's figures for
the same fault are in docs/reliability.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from redis import Redis
from rich.console import Console
from rich.table import Table
from rq import Queue, Retry
from rq.job import Job

from levelq.embedded import Valkey
from levelq.server_account import temporary_folder

from .command import options

JOB_SECONDS = 600  # longer than it takes to kill it
KINDS = ("Worker", "SimpleWorker")
RETRIES = (0, 3)


def job(begun: str) -> None:
    """Note that it was begun, then wait."""
    with Path(begun).open("a") as file:
        file.write(f"{time.time()}\n")
    threading.Event().wait(JOB_SECONDS)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="when to give up (default 30)")
    minutes = parser.parse_args().minutes
    console = Console()
    with temporary_folder("levelq-rq-") as folder, Valkey(folder / "valkey", folder) as valkey:
        trials = [Trial(valkey.url, folder, kind, retries) for kind in KINDS for retries in RETRIES]
        try:
            for trial in trials:
                trial.kill_in_the_middle()
            console.print(f"{len(trials)} workers killed in the middle of their jobs; waiting up to {minutes:g} min")
            wait(trials, time.monotonic() + 60 * minutes)
        finally:
            for trial in trials:
                trial.end()
        console.print(table(trials))
    return 0


class Trial:
    """One queue, two workers, one job."""

    def __init__(self, url: str, folder: Path, kind: str, retries: int) -> None:
        self.kind, self.retries = kind, retries
        self._name = f"{kind}-{retries}"
        self._begun = folder / self._name
        redis = Redis.from_url(url)
        self._queue = Queue(self._name, connection=redis)
        self._environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        self._command = [str(Path(sys.executable).parent / "rq"), "worker", "-q", "--url", url]
        self._command += ["-w", f"rq.{kind}", self._name]
        self._workers = [self._start()]
        retry = Retry(max=retries) if retries else None
        self._job = self._queue.enqueue("benchmarks.rq_recovery.job", str(self._begun), retry=retry)
        self._killed = 0.0
        self.noticed: float | None = None
        self.states: list[str] = []

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=self._environment, stderr=subprocess.DEVNULL)

    def kill_in_the_middle(self) -> None:
        """When the job runs: start a second worker, and kill the first and its work horse."""
        deadline = time.monotonic() + 30
        while self.begins == 0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._name}: the job did not begin")
            time.sleep(0.05)
        self._workers.append(self._start())
        victim = psutil.Process(self._workers[0].pid)
        for process in (victim, *victim.children(recursive=True)):
            process.send_signal(signal.SIGKILL)
        self._workers[0].wait()
        self._killed = time.monotonic()

    def poll(self) -> bool:
        """Whether RQ has noticed: the job's state is no longer "started", or it was begun again."""
        state = Job.fetch(self._job.id, connection=self._queue.connection).get_status()
        name = str(getattr(state, "value", state))
        if not self.states or self.states[-1] != name:
            self.states.append(name)
        if self.noticed is None and (name != "started" or self.begins > 1):
            self.noticed = time.monotonic() - self._killed
        return self.noticed is not None

    @property
    def begins(self) -> int:
        """How often the job was begun."""
        return len(self._begun.read_text().splitlines()) if self._begun.exists() else 0

    def end(self) -> None:
        """End the workers that are left."""
        for worker in self._workers:
            if worker.poll() is None:
                for process in psutil.Process(worker.pid).children(recursive=True):
                    process.kill()
                worker.kill()
                worker.wait()


def wait(trials: list[Trial], deadline: float) -> None:
    """Poll until RQ has noticed every trial, and once more later, when retries have begun."""
    while sum(trial.poll() for trial in trials) < len(trials) and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(5)
    for trial in trials:
        trial.poll()


def table(trials: list[Trial]) -> Table:
    shown = Table("RQ worker", "retries asked for", "noticed after", "the job's states", "begun")
    for trial in trials:
        noticed = "never" if trial.noticed is None else f"{trial.noticed:.0f} s"
        shown.add_row(trial.kind, str(trial.retries), noticed, " -> ".join(trial.states), f"{trial.begins} x")
    return shown


if __name__ == "__main__":
    sys.exit(main())
