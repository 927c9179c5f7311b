"""The worlds: one per engine, on a database of the test's own. Time in them passes only where a machine advances it."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq_core.lanes import protocol as scripts
from levelq_worker.draining import batch
from tests.stateful.machine import NEWER_SECONDS
from tests.stateful.reference import WAKE_SECONDS
from tests.stateful.world import World
from tests.support.fake_redis import fake_redis


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing real runs out within an example, chance is hypothesis's alone, and no log fills."""
    caplog.set_level(logging.CRITICAL, "levelq")
    monkeypatch.setattr(scripts, "WAKE_MS", int(WAKE_SECONDS * 1000))
    monkeypatch.setattr(scripts, "LEASE_MS", 3_600_000)
    monkeypatch.setattr(batch, "NEWER_DELAY_MS", int(NEWER_SECONDS * 1000))
    monkeypatch.setattr(batch, "random", SimpleNamespace(randint=lambda least, most: most))


@pytest.fixture
def holder(own_database_url: str, own_engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """Foreign code's connection. No vacuum may hold a table for longer than a held row is waited for."""
    with own_engine.begin() as connection:
        for table in ("specialization_progress", "user_licenses"):
            connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
    with psycopg.connect(own_database_url) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def valkey(redis: Redis, own_engine: Engine, holder: psycopg.Connection[Any], still: None) -> World:
    return World(redis, own_engine, holder)


@pytest.fixture
def fake(
    own_engine: Engine, holder: psycopg.Connection[Any], still: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    with fake_redis(monkeypatch) as client:
        yield World(client, own_engine, holder)
