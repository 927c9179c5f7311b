"""Fixtures live in tests/fixtures, one room each; this file only names them, and keeps one tier apart."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = [f"tests.fixtures.{name}" for name in ("chance", "servers", "databases", "processes")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/system needs root and apt: it is run when it is asked for, by `make test-system`."""
    asked = any("system" in argument for argument in config.args)
    return True if collection_path.name == "system" and not asked else None
