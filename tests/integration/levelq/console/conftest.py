"""The console on this test's servers."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from levelq_core import Settings
from tests.support.console import Site, served
from tests.support.system import System


@pytest.fixture
def site(system: System, settings: Settings) -> Iterator[Site]:
    """The console, on loopback and without logins: every browser is an operator."""
    with served(settings) as made:
        yield made


@pytest.fixture
def logins(tmp_path: Path) -> Path:
    """A token file without logins."""
    (tmp_path / "logins").touch()
    return tmp_path / "logins"


@pytest.fixture
def client(site: Site) -> httpx.Client:
    """A browser on it."""
    return site.client
