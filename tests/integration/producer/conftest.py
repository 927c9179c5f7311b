"""Fixtures of the producer's tests."""

import psycopg
import pytest

from levelq_core import Settings


@pytest.fixture
def url(settings: Settings) -> str:
    """The application's database, which has levelq's tables and a table of its own."""
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as connection:
        connection.execute("CREATE TABLE matches (id int PRIMARY KEY)")
    return settings.database_url
