"""`levelq console` as a process: it serves, and a stop signal ends it at once, whatever is open."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from tests.support.fixtures.processes import Started
from tests.support.system import ended

MOST_SECONDS = 15  # of a busy machine; what is open lasts longer


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_ends_it_with_connections_and_requests_open(
    start: Callable[..., Started], number: signal.Signals
) -> None:
    port = free_port()
    process = start("console", "--port", port)
    assert process.stdout is not None and process.stdout.readline() == f"http://127.0.0.1:{port}/\n"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as idle:
        assert idle.get("/").status_code == 200
        with socket.create_connection(("127.0.0.1", int(port))) as half:
            half.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n")
            half.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n\r\n")
            assert half.recv(100).startswith(b"HTTP/1.1 100 ")  # its form is being read
            since = time.monotonic()
            process.send_signal(number)
            code, output = ended(process)
            assert time.monotonic() - since < MOST_SECONDS
    assert code == 0
    assert "Traceback" not in output


def test_stop_signal_during_the_start_ends_it(start: Callable[..., Started]) -> None:
    process = start("console", "--port", free_port(), LEVELQ_CONSOLE_URL="http://localhost:8420")
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, "")
