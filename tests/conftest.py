"""Fixtures live in tests/support/fixtures, one room each; this file only names them, and keeps one tier apart."""

import gc
from pathlib import Path

import pytest

gc.disable()  # until all is imported and collected, which stays to the end

pytest_plugins = [
    f"tests.support.fixtures.{name}"
    for name in ("chance", "servers", "clusters", "databases", "processes", "sessions", "workers", "command_line")
]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/system needs root and apt: it is run when it is asked for, by `make test-system`."""
    system = Path(__file__).parent / "system"
    asked = (Path(argument.partition("::")[0]).resolve() for argument in config.args)
    return True if collection_path == system and not any(path.is_relative_to(system) for path in asked) else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Look for garbage only among what the tests make."""
    gc.freeze()
    gc.enable()
