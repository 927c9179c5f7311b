"""The proxy of the tests itself: it passes on what it must, and loses what a test chooses."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fixtures.proxy import Fault, Proxy
from tests.support.fixtures.waiting import until

SILENT_SECONDS = 0.2  # what shall not come is waited for so long


class Echo:
    """A server on a socket's path that sends back what it gets, and keeps it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.got = b""
        self.ended = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                while request := client.recv(65_536):
                    self.got += request
                    client.sendall(request)
            except OSError:
                pass
        self.ended += 1

    def close(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    server = Echo(tmp_path / "echo")
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(str(echo.path)) as running:
        yield running


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def client() -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", proxy.port)))
        made[-1].settimeout(30)
        return made[-1]

    yield client
    for opened in made:
        opened.close()


def ask(client: socket.socket, request: bytes) -> bytes:
    client.sendall(request)
    return client.recv(65_536)


def silent(client: socket.socket) -> bool:
    client.settimeout(SILENT_SECONDS)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    return False


def is_reset(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_what_is_sent_arrives_and_is_answered(connect: Callable[[], socket.socket]) -> None:
    first, second = connect(), connect()
    assert ask(first, b"one") == b"one"
    assert ask(second, b"two") == b"two"
    big = b"x" * 1_000_000
    threading.Thread(target=first.sendall, args=(big,), daemon=True).start()
    got = b""
    while len(got) < len(big):
        got += first.recv(65_536)
    assert got == big


def test_a_server_on_tcp_is_reached_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[:2]) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port))
        other_end, _ = server.accept()
        with client, other_end:
            client.sendall(b"hello")
            assert other_end.recv(5) == b"hello"


@pytest.mark.parametrize("fault", Fault)
def test_a_trap_strikes_once_and_one_connection(
    proxy: Proxy, connect: Callable[[], socket.socket], echo: Echo, fault: Fault
) -> None:
    trap = proxy.trap(fault, b"COMMIT", skip=1)
    client, other = connect(), connect()
    assert ask(client, b"COMMIT 1") == b"COMMIT 1"
    assert ask(client, b"BEGIN") == b"BEGIN"
    assert not trap.struck.is_set()
    client.sendall(b"COMMIT 2")
    assert trap.struck.wait(30)
    assert silent(client) if fault in (Fault.DROP_REQUEST, Fault.DROP_REPLY) else is_reset(client)
    arrived = fault in (Fault.DROP_REPLY, Fault.RESET_REPLY)
    until(lambda: echo.got.endswith(b"COMMIT 2" if arrived else b"BEGIN"), what="what was to arrive")
    assert ask(other, b"COMMIT 3") == b"COMMIT 3"
    assert (b"COMMIT 2" in echo.got) == arrived


def test_what_follows_a_lost_request_is_lost_with_it(
    proxy: Proxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    trap = proxy.trap(Fault.DROP_REQUEST, b"first")
    client = connect()
    client.sendall(b"first")
    assert trap.struck.wait(30)
    client.sendall(b"second")
    assert silent(client)
    assert echo.got == b""


def test_a_trap_may_wait_for_a_connection_that_began_in_a_certain_way(
    proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    trap = proxy.trap(Fault.RESET_REQUEST, b"COMMIT", of=b"worker")
    worker, relay = connect(), connect()
    assert ask(worker, b"I am a worker") == b"I am a worker"
    assert ask(relay, b"I am a relay") == b"I am a relay"
    assert ask(relay, b"COMMIT") == b"COMMIT"
    worker.sendall(b"COMMIT")
    assert trap.struck.wait(30)
    assert is_reset(worker)


@pytest.mark.parametrize("way", ["requests", "replies"])
def test_a_cut_one_way_is_silent_until_it_is_healed(
    proxy: Proxy, connect: Callable[[], socket.socket], echo: Echo, way: str
) -> None:
    before = connect()
    assert ask(before, b"a") == b"a"
    proxy.lose(way)  # type: ignore[arg-type]
    before.sendall(b"b")
    during = connect()
    during.sendall(b"c")
    assert silent(before)
    assert silent(during)
    assert sorted(echo.got) == sorted(b"a" if way == "requests" else b"abc")
    proxy.heal()
    assert is_reset(before)
    assert is_reset(during)
    assert ask(connect(), b"d") == b"d"


def test_a_delay_holds_up_each_way(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    proxy.delay_seconds = 0.05
    started = time.monotonic()
    assert ask(connect(), b"slow") == b"slow"
    assert time.monotonic() - started >= 0.1


def test_who_hangs_up_is_hung_up_on(connect: Callable[[], socket.socket], echo: Echo) -> None:
    client = connect()
    assert ask(client, b"a") == b"a"
    client.close()
    until(lambda: echo.ended == 1, what="the server's end to close")


def test_without_a_server_a_connection_ends_at_once(connect: Callable[[], socket.socket], echo: Echo) -> None:
    echo.close()
    client = connect()
    assert client.recv(1) == b""
