"""levelq as process 1 of a pid namespace, as in a container: no init above it, and the kernel drops what it ignores."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from levelq.server_account import temporary_folder
from levelq_core import Settings
from tests.support.fixtures.waiting import until
from tests.support.starting import LONG, STOPS, Importing, Silent, children_of

READY = "levelq-worker"  # the name of a child


class ProcessOne:
    """`levelq ...` as process 1. `process` is its parent, outside of the namespace, which ends with its exit code."""

    def __init__(self, *arguments: str, environment: Mapping[str, str], through: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", *through, sys.executable, "-m", "levelq", *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        (self.inside,) = until(psutil.Process(self.process.pid).children, what="process 1")

    def code_after(self, number: signal.Signals) -> int:
        """Send the signal; the exit code."""
        self.inside.send_signal(number)
        return self.process.wait(30)

    def children(self, name: str) -> list[psutil.Process]:
        """Its children of this name; those that have ended, too, until they are reaped."""
        return children_of(self.inside, name)

    def run(self, script: str) -> None:
        """Run a shell in the namespace, as `docker exec` does."""
        subprocess.run(["nsenter", f"--target={self.inside.pid}", "--pid", "--mount", "sh", "-c", script], check=True)


@contextmanager
def process_one(*arguments: str, environment: Mapping[str, str], through: Sequence[str] = ()) -> Iterator[ProcessOne]:
    """The kernel ends the whole namespace with process 1."""
    one = ProcessOne(*arguments, environment=environment, through=through)
    try:
        yield one
    finally:
        if one.inside.is_running():
            one.inside.kill()
        one.process.communicate()


def blocks_sigterm(pid: int) -> bool:
    (mask,) = re.findall(r"^SigBlk:\s+(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_once_the_bare_interpreter_has_started_ends_process_1(settings: Settings) -> None:
    with process_one("worker", environment=settings.environment()) as one:
        until(lambda: blocks_sigterm(one.inside.pid), what="the first moment of the command")
        assert one.code_after(signal.SIGTERM) == 0


def test_sigterm_before_the_interpreter_has_started_is_kept_where_env_blocks_it(settings: Settings) -> None:
    """As docs/how-to/run-workers.md advises who wants no gap at all."""
    blocking = ["env", "--block-signal=TERM"]
    with process_one("worker", environment=settings.environment(), through=blocking) as one:
        until(lambda: blocks_sigterm(one.inside.pid), what="env")
        assert one.code_after(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", STOPS)
def test_stop_signal_during_imports_ends_process_1(number: signal.Signals, settings: Settings, tmp_path: Path) -> None:
    importing = Importing(tmp_path)
    with process_one("worker", environment=settings.environment() | importing.environment) as one, importing.held():
        assert one.code_after(number) == 0


def test_sigterm_while_preflight_waits_ends_process_1(settings: Settings) -> None:
    with Silent() as silent:
        environment = settings.environment() | LONG | {"LEVELQ_REDIS_URL": silent.redis_url}
        with process_one("worker", environment=environment) as one, silent.asked():
            assert one.code_after(signal.SIGTERM) == 0
    with Silent() as silent:
        environment = settings.environment() | LONG | {"LEVELQ_DATABASE_URL": silent.database_url}
        with process_one("worker", environment=environment) as one, silent.asked():
            assert one.code_after(signal.SIGTERM) == 0


@pytest.mark.usefixtures("own_engine")
@pytest.mark.parametrize("number", STOPS)
def test_stop_signal_for_working_process_1_is_a_clean_stop(number: signal.Signals, settings: Settings) -> None:
    with process_one("worker", "--processes", "2", environment=settings.environment()) as one:
        until(lambda: one.children(READY), what="the first child")
        assert one.code_after(number) == 0


@pytest.mark.usefixtures("own_engine")
def test_process_1_reaps_what_others_leave_in_its_container(settings: Settings) -> None:
    with process_one("worker", "--processes", "1", environment=settings.environment()) as one:
        until(lambda: one.children(READY), what="the child")
        one.run("sleep 600 & sleep 600 &")  # their parent ends before they do
        orphans = until(lambda: one.children("sleep"), what="the adopted orphans")
        assert len(orphans) == 2
        for orphan in orphans:
            orphan.kill()
        until(lambda: not one.children("sleep"), what="the end of the orphans")
        assert one.code_after(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", STOPS)
def test_up_as_process_1_stops_with_its_servers(number: signal.Signals) -> None:
    with temporary_folder("levelq-") as folder, process_one("up", "--data", str(folder), environment={}) as one:
        assert one.process.stdout is not None and one.process.stderr is not None
        assert one.process.stdout.readline().startswith("export"), one.process.stderr.read()
        assert one.code_after(number) == 0
        assert "Stopped." in one.process.stderr.read()
