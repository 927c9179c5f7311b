"""Fixtures of the producer's tests."""

from collections.abc import Iterator

import psycopg
import pytest

from levelq_core import Settings
from levelq_worker.draining.context import Runtime
from tests.support.coupler import runtime


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    """A worker in this process, which drains when a test calls it."""
    with runtime(settings) as made:
        yield made


@pytest.fixture
def url(settings: Settings) -> str:
    """The application's database, which has levelq's tables and a table of its own."""
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("CREATE TABLE matches (id int PRIMARY KEY)")
    return settings.database_url
