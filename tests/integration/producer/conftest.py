"""Fixtures of the producer's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from levelq_core import Settings
from levelq_worker.draining.context import Runtime
from tests.support.coupler import runtime


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    """A worker in this process, which drains when a test says so."""
    with runtime(settings) as made:
        yield made
