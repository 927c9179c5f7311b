"""The guard itself: a unit test that connects somewhere fails."""

import socket

import psycopg
import pytest
from sqlalchemy import create_engine

from tests.unit.conftest import ConnectionInUnitTest


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_UNIX, "nowhere.sock")])
def test_a_socket_cannot_be_connected(family: socket.AddressFamily, address: object) -> None:
    with socket.socket(family) as plain:
        with pytest.raises(ConnectionInUnitTest):
            plain.connect(address)  # type: ignore[arg-type]
        with pytest.raises(ConnectionInUnitTest):
            plain.connect_ex(address)  # type: ignore[arg-type]


def test_postgresql_cannot_be_reached() -> None:
    for connect in (psycopg.connect, psycopg.Connection.connect):
        with pytest.raises(ConnectionInUnitTest):
            connect("postgresql://localhost/levelq")
    with pytest.raises(ConnectionInUnitTest):
        create_engine("postgresql+psycopg://localhost/levelq").connect()
