"""The port that Prometheus scrapes, with clients that are slow or talk nonsense."""

from contextlib import suppress
from socket import create_connection
from threading import Event, Thread
from urllib.request import urlopen

import pytest
from prometheus_client.core import GaugeMetricFamily

from levelq_worker.metrics import exposition
from levelq_worker.metrics.host import listen
from tests.support.fixtures.ports import free_port


@pytest.mark.parametrize(("most_clients", "seconds"), [(1, 0.2), (2, 60.0)])
def test_client_that_sends_its_request_byte_by_byte_does_not_keep_others_out(
    monkeypatch: pytest.MonkeyPatch, most_clients: int, seconds: float
) -> None:
    """It is cut off, and others have threads of their own."""
    monkeypatch.setattr(exposition, "MOST_CLIENTS", most_clients)
    monkeypatch.setattr(exposition._Handler, "timeout", seconds)
    port = free_port()
    answer = [GaugeMetricFamily("levelq_up", "Whether it answers.", value=1)]
    server = exposition.server_of(listen("127.0.0.1", port), lambda: answer)
    Thread(target=server.serve_forever, daemon=True).start()
    over = Event()

    def send_slowly() -> None:
        with suppress(OSError):
            while not over.wait(0.02):
                slow.sendall(b"x")

    with create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"GET /metrics HTTP/1.0\r\n")
        sender = Thread(target=send_slowly)
        sender.start()
        try:
            with create_connection(("127.0.0.1", port)) as rude:
                rude.sendall(b"\x00\xff rubbish\r\n\r\n")
                assert b"400" in rude.recv(1000)
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as scraped:
                assert b"levelq_up 1.0" in scraped.read()
        finally:
            over.set()
            sender.join()
            server.shutdown()
            server.server_close()
