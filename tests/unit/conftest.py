"""Unit tests touch no network: an attempt to connect fails here, and the error names the address."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest


class ConnectionInUnitTest(AssertionError):
    """A unit test tried to open a connection; servers belong to tests/integration."""


def _refuse(*args: Any, **_: Any) -> None:
    raise ConnectionInUnitTest(f"a unit test tried to connect: {args[1:]}")


# Per module, not per session: integration tests may run after these in the same process.
@pytest.fixture(scope="module", autouse=True)
def no_sockets() -> Iterator[None]:
    """Make every connection attempt fail, of Python's sockets and of libpq."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _refuse)
        patch.setattr(socket.socket, "connect_ex", _refuse)
        patch.setattr(psycopg, "connect", _refuse)
        patch.setattr(psycopg.Connection, "connect", _refuse)
        yield


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own LEVELQ_ variables must not decide whether a test passes."""
    for name in [name for name in os.environ if name.upper().startswith("LEVELQ_")]:
        monkeypatch.delenv(name)
