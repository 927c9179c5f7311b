"""The figures of all worker processes of one host, and the port at which Prometheus reads them."""

from __future__ import annotations

import mmap
import socket
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Self

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings

from .figures import Figures, Layout
from .names import PROCESSES, RESTARTS

if TYPE_CHECKING:
    from http.server import HTTPServer

SETTING = "LEVELQ_METRICS_PORT"
WAITING_SCRAPES = 8


def listen(host: str, port: int, setting: str = SETTING) -> socket.socket:
    """Listen there. Raises ConfigurationError, which names the setting, if the port is in use or there is no host."""
    if find_spec("prometheus_client") is None:
        raise ConfigurationError(f"{setting}: needs prometheus-client: pip install 'levelq[worker]'", setting=setting)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=WAITING_SCRAPES)
    except (OSError, UnicodeError) as error:
        why = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]  # Python names the address again
        message = f"{setting}: cannot listen at {host} port {port} (LEVELQ_METRICS_HOST): {why}"
        raise ConfigurationError(message, setting=setting, value=str(port)) from error


class HostMetrics:
    """One row of figures for each worker process, and the socket that serves their sums.

    Made by the supervisor before it forks: the workers write into the shared memory, and a process of its own serves
    it. A worker without a supervisor has one row, and a thread serves it. prometheus_client is imported there alone.
    """

    def __init__(self, settings: Settings, processes: int, listening: socket.socket) -> None:
        self.layout = Layout(settings.tracks)
        self.rows = [memoryview(mmap.mmap(-1, self.layout.cells * 8)).cast("d") for _ in range(processes)]
        self.figures = [Figures(self.layout, row) for row in self.rows]
        self._listening = listening
        self._begun: set[int] = set()

    @classmethod
    def open(cls, settings: Settings, processes: int) -> Self | None:
        """Listen at LEVELQ_METRICS_PORT; None if it is not set. Raises ConfigurationError if that is not possible."""
        if settings.metrics_port is None:
            return None
        return cls(settings, processes, listen(settings.metrics_host, settings.metrics_port))

    def began(self, number: int) -> None:
        """A process of this row begins; every further one is a restart."""
        self.figures[number].add(PROCESSES)
        self.figures[number].add(RESTARTS, amount=int(number in self._begun))
        self._begun.add(number)

    def ended(self, number: int) -> None:
        """The process of this row has ended."""
        self.figures[number].add(PROCESSES, amount=-1)

    def close_port(self) -> None:
        """Close this process's copy of the socket; the process that serves has its own."""
        self._listening.close()

    def serve(self) -> int:
        """Answer scrapes for ever."""
        self._server().serve_forever()
        return 0

    def serve_in_thread(self) -> HTTPServer:
        """Answer scrapes until `shutdown` of the server returned, and then `server_close`."""
        server = self._server()
        Thread(target=server.serve_forever, name="levelq-metrics", daemon=True).start()
        return server

    def _server(self) -> HTTPServer:
        from .exposition import families, server_of  # noqa: PLC0415 - only the process that serves needs it

        return server_of(self._listening, lambda: families(self.layout, self.rows))
