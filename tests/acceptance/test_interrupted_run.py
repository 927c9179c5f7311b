"""A run of the tests that is interrupted leaves no process and no folder behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fixtures.waiting import until

FAULT_POINTS = "tests/acceptance/fault_points"  # they start most: servers, proxies, supervisors, workers


def of_this_run(folder: Path) -> set[psutil.Process]:
    """Processes anywhere on this machine that have the folder for their temporary files."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Directly below the system's: paths of Unix sockets below it have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lq-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process_and_no_folder(folder: Path, number: signal.Signals) -> None:
    environment = os.environ | {"TMPDIR": str(folder)}
    for name in [name for name in environment if name.startswith(("PYTEST_", "COV"))]:
        del environment[name]
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.run", "-q", "-p", "no:cacheprovider", "-n", "1", FAULT_POINTS],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: len(psutil.Process(run.pid).children(recursive=True)) > 20, 300, "servers and workers")
        run.send_signal(number)
        assert run.wait(90) == 128 + number
    finally:
        run.kill()
        run.wait()
    assert of_this_run(folder) == set()
    assert list(folder.iterdir()) == []
