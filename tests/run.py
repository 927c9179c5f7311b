"""python -m tests.run ARGUMENTS: pytest with these arguments, of which nothing is left behind, however it ends.

Interrupted, pytest may leave servers, workers and their folders. This parent gives the run one folder for all its
temporary files, adopts the run's orphans (on Linux), and removes folder and processes at the end. It passes stop
signals on, and after GRACE_SECONDS kills what is left.

The folder is in memory if there is plenty (on Linux): the servers' many small files and writes to disk take a fifth of
the processors' time of a run. TMPDIR names another folder. The run's hundreds of processes share compiled modules,
also where PYTHONDONTWRITEBYTECODE is set: without these, each compiles what it imports of levelq and of the tests.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

GRACE_SECONDS = 10.0
MEMORY = Path("/dev/shm")
PLENTY_OF_BYTES = 8 << 30  # free in that file system, and of the memory
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def _take_signals() -> None:
    """Tests are run the same from a terminal, as a shell's background job and under nohup, which ignore signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _base() -> Path | None:
    """Where the run's folder goes: to memory, or None for the usual place."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return None
    memory = os.statvfs(MEMORY)
    free = min(memory.f_bavail * memory.f_frsize, psutil.virtual_memory().available)
    return MEMORY if free >= PLENTY_OF_BYTES and not memory.f_flag & os.ST_NOEXEC else None


def _environment(folder: Path) -> dict[str, str]:
    environment = os.environ | {"TMPDIR": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def run(arguments: list[str]) -> int:
    """Run pytest; returns its exit code, or 128 + the signal that ended the run."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # make was killed
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*stops, signal.SIGCHLD})
    # A short name: paths of Unix sockets below it have at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="lq-", dir=_base()))
    folder.chmod(0o755)  # PostgreSQL runs under an account of its own when root starts it
    try:
        pytest = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            env=_environment(folder),
            process_group=0,  # Ctrl-C reaches this process alone
            preexec_fn=_take_signals,  # noqa: PLW1509 - no other threads
        )
        while True:
            number = signal.sigwait({*stops, signal.SIGCHLD})
            if number == signal.SIGCHLD:
                _reap_orphans(pytest.pid)
                if pytest.poll() is not None:
                    return pytest.returncode if pytest.returncode >= 0 else 128 - pytest.returncode
                continue
            with suppress(ProcessLookupError):
                os.killpg(pytest.pid, signal.SIGINT)
            try:
                pytest.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                print("the tests did not end: killing them", file=sys.stderr)
            return 128 + number
    finally:
        _kill_all()
        shutil.rmtree(folder, ignore_errors=True)


def _reap_orphans(own: int) -> None:
    """Reap adopted processes that have ended. It stops at the run itself, whose exit code is still wanted."""
    with suppress(ChildProcessError):  # there are no children at all
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != own:
            os.waitpid(ended.si_pid, 0)


def _kill_all() -> None:
    """Kill every descendant. One that is orphaned meanwhile becomes a child of this process, and is found again."""
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                process.kill()
        psutil.wait_procs(left, timeout=GRACE_SECONDS)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
