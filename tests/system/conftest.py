"""These tests need root. Without it they fail with that message."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def root() -> None:
    """Mounts, clocks and network namespaces are root's."""
    assert os.geteuid() == 0, "tests/system needs root: see `make test-system`"
