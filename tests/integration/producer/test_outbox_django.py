"""The outbox on Django's connection: what an atomic block rolls back is not sent, what it commits is."""

import os
import subprocess
import sys
from collections.abc import Callable
from textwrap import dedent

import psycopg
import pytest
from redis import Redis

from levelq import Settings
from tests.support.outbox import committed, relay_and_drain

Run = Callable[[str], None]


@pytest.fixture(params=["psycopg", "psycopg2"])
def run(request: pytest.FixtureRequest, settings: Settings, url: str) -> Run:
    """Run code in a Django application on each driver."""
    with psycopg.connect(url) as connection:
        where = (connection.info.host, connection.info.dbname)

    def in_application(code: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.django_application", request.param, *where],
            input=PREAMBLE + dedent(code),
            env=os.environ | {"LEVELQ_REDIS_URL": settings.redis_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return in_application


PREAMBLE = """
from uuid import UUID

def level_up(number, **fields):
    return LevelUp(command_id=UUID(int=number), user_id=1, specialization="PLAYER", xp_gained=10, **fields)

def refused(error, words, call):
    try:
        call()
    except error as raised:
        assert words in str(raised), raised
    else:
        raise SystemExit(f"no {error.__name__}")
"""


def test_atomic_block_sends_with_its_commit_and_takes_back_with_its_rollback(
    run: Run, settings: Settings, redis: Redis, url: str
) -> None:
    run("""
        with transaction.atomic():
            Match(1).save()
            Outbox(connection).send(level_up(1))
        try:
            with transaction.atomic():
                Match(2).save()
                Outbox(connection).send(level_up(2))
                Match.objects.create(number=1)
        except IntegrityError:
            pass
        with transaction.atomic():
            Outbox(connection).send_many([level_up(3), level_up(4)])
            try:
                with transaction.atomic():
                    Outbox(connection).send(level_up(5))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                Match(3).save()
    """)
    assert committed(url) == ([1, 3], [1, 3, 4])
    assert relay_and_drain(settings, redis) == [1, 3, 4]


def test_handle_answers_after_the_commit(run: Run, settings: Settings, redis: Redis) -> None:
    run("""
        with transaction.atomic():
            handle = Outbox(connection).send(level_up(1))
        assert handle.command_id == UUID(int=1)
    """)
    relay_and_drain(settings, redis)
    run("""
        with transaction.atomic():
            handle = Outbox(connection).send(level_up(1))
        assert handle.result().to_level == 1
    """)


def test_autocommit_outside_atomic_is_refused(run: Run, url: str) -> None:
    run("""
        refused(TransactionMisuse, "inside `with transaction.atomic(using='default'):`",
                lambda: Outbox(connection).send(level_up(1)))
        refused(TransactionMisuse, "got autocommit", lambda: Outbox(connections["default"]).send(level_up(2)))
        Match(1).save()
    """)
    assert committed(url) == ([1], [])


def test_other_connection_without_autocommit_is_written_in_its_own_transaction(run: Run, url: str) -> None:
    run("""
        other = connections["other"]
        for number, end in ((1, other.commit), (2, other.rollback)):
            Match(number).save(using="other")
            Outbox(other).send(level_up(number))
            end()
        with transaction.atomic(using="other"):
            Outbox(other).send(level_up(3))
            transaction.set_rollback(True, using="other")
        with transaction.atomic(using="other"):
            Outbox(other).send(level_up(4))
        other.commit()
        other.close()
    """)
    assert committed(url) == ([1], [1, 4])


def test_aborted_atomic_block_is_refused(run: Run, url: str) -> None:
    run("""
        Match(1).save()
        with transaction.atomic():
            try:
                with transaction.atomic(savepoint=False):
                    Match.objects.create(number=1)
            except IntegrityError:
                refused(TransactionMisuse, "aborted by an earlier error", lambda: Outbox(connection).send(level_up(1)))
        with transaction.atomic():
            try:
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO matches VALUES (1)")
            except IntegrityError:
                refused(TransactionMisuse, "aborted by an earlier error", lambda: Outbox(connection).send(level_up(2)))
            transaction.set_rollback(True)
    """)
    assert committed(url) == ([1], [])


def test_id_with_other_content_is_refused_and_the_block_goes_on(run: Run, url: str) -> None:
    run("""
        with transaction.atomic():
            Outbox(connection).send(level_up(1))
            refused(InvalidCommand, "in the outbox with other content",
                    lambda: Outbox(connection).send_many([level_up(2), level_up(1, reason="another")]))
            Outbox(connection).send(level_up(3))
    """)
    assert committed(url) == ([], [1, 3])


def test_database_without_levelqs_tables_or_of_another_kind_is_named(run: Run, settings: Settings) -> None:
    with psycopg.connect(settings.database_url or "") as database:
        database.execute("DROP TABLE levelq_outbox")
    run("""
        def send(connection):
            with transaction.atomic(using=connection.alias):
                Outbox(connection).send(level_up(1))

        refused(SchemaError, "`levelq db upgrade`", lambda: send(connection))
        refused(TransactionMisuse, "expected PostgreSQL, got sqlite", lambda: send(connections["light"]))
        refused(TypeError, "Django's connection", lambda: Outbox(connections))
        refused(TransactionMisuse, "expected PostgreSQL", lambda: Outbox(cache).send(level_up(1)))
        with connection.cursor() as cursor:
            refused(TypeError, "Django's connection", lambda: Outbox(cursor))
    """)
