"""The token file: who may log in with which token, as LEVELQ_CONSOLE_LOGINS names it.

A line is `name role sha256:HEX`; # begins a comment. The file holds no token. A plain SHA-256 is enough, because
tokens are made here and have 256 random bits: there is no list of likely ones to try, which a slow hash is for.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import NamedTuple, cast

from levelq_core.errors import ConfigurationError
from levelq_core.settings import MOST_NAME
from levelq_core.untrusted_text import quoted

from .login import Login, Role

SETTING = "LEVELQ_CONSOLE_LOGINS"
MOST_BYTES = 1_000_000
ROLES = ("operator", "reader")


class Entry(NamedTuple):
    """A line of the file. A name may have several, while its token is replaced."""

    login: Login
    digest: bytes


class LoginFile:
    """The entries of the file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._entries: tuple[Entry, ...] = ()

    def entries(self) -> tuple[Entry, ...]:
        """The entries as the file has them now. Raises ConfigurationError, which names the line: nobody is in then."""
        try:
            found = self._path.stat()
            version = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            if version != self._version:
                self._version = None
                self._entries = _read(self._path)
                self._version = version
        except OSError as error:
            message = f"{SETTING}: {self._path}: {error.strerror}"
            raise ConfigurationError(message, setting=SETTING) from error
        return self._entries

    def find(self, token: str) -> Entry | None:
        """The entry of a token. It is compared with every entry, each in constant time. Raises ConfigurationError."""
        digest = digest_of(token)
        found = None
        for entry in self.entries():
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found

    def holds(self, entry: Entry) -> bool:
        """Whether the file still has this name with this token and role. Raises ConfigurationError."""
        return entry in self.entries()


def digest_of(token: str) -> bytes:
    """What the file has of a token."""
    return hashlib.sha256(token.strip().encode(errors="surrogatepass")).digest()


def new_login(name: str, role: str) -> tuple[str, str]:
    """A new token, and the line for it. Raises ConfigurationError for a name that cannot be in the file."""
    token = secrets.token_urlsafe(32)
    line = f"{name} {role} sha256:{digest_of(token).hex()}"
    if name.split() != [name] or name.startswith("#"):
        raise ConfigurationError(f"--new-login: expected a name without spaces, got {quoted(name)}")
    try:
        parse(line)
    except ValueError as error:
        raise ConfigurationError(f"--new-login: {error}") from None
    return token, line


def append(path: Path, line: str) -> None:
    """Add a line to the file, which is made for this account alone if there is none. Raises ConfigurationError."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(file, "rb+") as opened:
            before = opened.read()
            opened.write(("" if before.endswith(b"\n") or not before else "\n").encode() + f"{line}\n".encode())
    except OSError as error:
        raise ConfigurationError(f"{SETTING}: {path}: {error.strerror}", setting=SETTING) from error


def parse(text: str) -> tuple[Entry, ...]:
    """The entries of a file's text. Raises ValueError, which names the line and not what may be a token."""
    entries: list[Entry] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            raise ValueError(f"line {number}: expected `name role sha256:HEX`, got {len(words)} words")
        name, role, digest = words
        if len(name) > MOST_NAME or not name.isprintable():
            raise ValueError(f"line {number}: name: expected at most {MOST_NAME} printable characters")
        if role not in ROLES:
            raise ValueError(f"line {number}: role: expected operator or reader, got {quoted(role)}")
        if not re.fullmatch("sha256:[0-9a-fA-F]{64}", digest):
            raise ValueError(f"line {number}: expected sha256: and 64 hexadecimal digits after the role")
        entry = Entry(Login(name, cast(Role, role)), bytes.fromhex(digest[7:]))
        if entry.digest in {other.digest for other in entries}:
            raise ValueError(f"line {number}: expected a token of its own, got one that another line has")
        entries.append(entry)
    return tuple(entries)


def _read(path: Path) -> tuple[Entry, ...]:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IWOTH:
            what = "every account of this host may write it and so add a login; take that away: chmod o-w"
            raise ConfigurationError(f"{SETTING}: {path}: {what}", setting=SETTING)
        raw = file.read(MOST_BYTES + 1)
    try:
        if len(raw) > MOST_BYTES:
            raise ValueError(f"expected at most {MOST_BYTES:,} bytes")
        return parse(raw.decode())
    except UnicodeDecodeError:
        raise ConfigurationError(f"{SETTING}: {path}: expected UTF-8", setting=SETTING) from None
    except ValueError as error:
        raise ConfigurationError(f"{SETTING}: {path}: {error}", setting=SETTING) from None
