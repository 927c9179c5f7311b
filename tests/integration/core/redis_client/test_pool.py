"""NodePool kept between calls: found again, given up when they are dead, and never leaked."""

from __future__ import annotations

import os
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import MaxConnectionsError

from levelq_core import Settings
from levelq_core.lanes.client import Lanes
from levelq_core.redis_client.pool import NodePool, _quiet, connect
from tests.support.fixtures.waiting import until
from tests.support.isolation import PLAYER


@pytest.fixture
def client(settings: Settings, redis: Redis) -> Any:
    """A client that may have three connections."""
    with Redis.from_url(settings.redis_url, max_connections=3) as client:
        yield client


def number(connections: NodePool, connection: Any) -> int:
    """What the server calls the connection."""
    (found,) = connections.execute(connection, [("CLIENT ID",)])
    return int(found)


def test_a_connection_is_found_again(client: Redis) -> None:
    connections = NodePool(client)
    first = connections.acquire()
    was = number(connections, first)
    connections.release(first)
    second = connections.acquire()
    assert (second, number(connections, second)) == (first, was)


def test_two_at_a_time_are_two(client: Redis) -> None:
    connections = NodePool(client)
    assert number(connections, connections.acquire()) != number(connections, connections.acquire())


def test_one_that_the_server_ended_is_made_anew_before_anything_is_sent(client: Redis, redis: Redis) -> None:
    connections = NodePool(client)
    connection = connections.acquire()
    was = number(connections, connection)
    connections.release(connection)
    redis.client_kill_filter(_id=was)  # type: ignore[arg-type]
    until(lambda: not _quiet(connection), what="the end of the connection")
    assert number(connections, connections.acquire()) != was


def test_one_whose_answer_was_not_heard_is_not_used_again(client: Redis) -> None:
    connections = NodePool(client)
    connection = connections.acquire()
    with pytest.raises(KeyboardInterrupt), connections.ended_by_errors(connection):
        connections.send(connection, [("PING",)])
        raise KeyboardInterrupt
    again = connections.acquire()
    assert connections.execute(again, [("ECHO", "mine")]) == [b"mine"]


def test_a_closed_client_opens_another(client: Redis) -> None:
    connections = NodePool(client)
    connections.release(connections.acquire())
    client.close()
    assert number(connections, connections.acquire())


def test_lanes_that_are_gone_leave_their_connections_to_the_client(client: Redis, settings: Settings) -> None:
    for _ in range(10):
        assert Lanes(client, settings).status(PLAYER).waiting == 0


def test_too_many_are_not_reached(client: Redis) -> None:
    connections = NodePool(client)
    held = [connections.acquire() for _ in range(3)]
    with pytest.raises(match="Too many connections") as caught:
        connections.acquire()
    assert isinstance(caught.value.__cause__, MaxConnectionsError)
    connections.release(held[0])
    assert connections.acquire() is held[0]


def test_a_forked_process_does_not_talk_on_its_parents_connections(settings: Settings, redis: Redis) -> None:
    with connect(settings.redis_url, 5) as client:
        connections = NodePool(client)
        connection = connections.acquire()
        was = number(connections, connection)
        connections.release(connection)
        child = os.fork()
        if not child:
            other = -1
            try:
                other = number(connections, connections.acquire())
            finally:
                os._exit(0 if other > was else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        connection = connections.acquire()
        assert number(connections, connection) == was
