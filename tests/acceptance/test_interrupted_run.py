"""A run of the tests that is interrupted leaves no process and no folder behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process_and_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    tmp_path.chmod(0o755)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    for name in [name for name in environment if name.startswith(("PYTEST_", "COV"))]:
        del environment[name]
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.run", "-q", "-p", "no:cacheprovider", "-n", "2", FAULT_POINTS],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: len(of_this_run(tmp_path)) > 10, 300, "servers and workers")
        run.send_signal(number)
        assert run.wait(90) == 128 + number
    finally:
        run.kill()
        run.wait()
    assert of_this_run(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []
