"""Figures in Prometheus' formats, and the HTTP server that it scrapes. Imported by what serves them alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from http.server import HTTPServer, ThreadingHTTPServer
from importlib import metadata
from itertools import accumulate
from socket import SHUT_RD, socket
from threading import BoundedSemaphore, Lock, Timer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import MetricsHandler, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from levelq_core.log_events import log_event

from .figures import Layout
from .names import METRICS, Metric

BUILD = "levelq_build_info", "The version of levelq, as a label."
REQUEST_SECONDS = 5.0  # for a client to send its request, and again to take the answer
MOST_CLIENTS = 8  # at once; others wait until one has gone

Collect = Callable[[], Iterable[Family]]


def families(layout: Layout, rows: Sequence[Sequence[float]]) -> Iterator[Family]:
    """Every metric of a worker host, summed over the rows."""
    sums = [sum(cells) for cells in zip(*rows, strict=True)]
    for metric in METRICS:
        yield _family(metric, layout, sums)
    build = GaugeMetricFamily(*BUILD, labels=["version"])
    build.add_metric([metadata.version("levelq")], 1)
    yield build


def _family(metric: Metric, layout: Layout, sums: Sequence[float]) -> Family:
    series = layout.starts[metric.name].items()
    if metric.type == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, start in series:
            *counts, total = sums[start : start + metric.cells]
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    made = (CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, start in series:
        made.add_metric(labels, sums[start])
    return made


class _Server(ThreadingHTTPServer):
    """A thread for each client: a slow one does not hold up the others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._free = BoundedSemaphore(MOST_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, when one is free."""
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and leave room for another client."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log one line, where the base class prints a traceback: mostly the client has gone away."""
        log_event(logging.WARNING, "scrape_failed", "metrics: a scrape failed: %(error)s", error=sys.exc_info()[1])


class _Handler(MetricsHandler):
    """A client has REQUEST_SECONDS for its whole request, however it divides it."""

    timeout = REQUEST_SECONDS

    def handle(self) -> None:
        """Read the request and answer it."""
        self._too_late = Timer(self.timeout, self._stop_reading)
        self._too_late.daemon = True
        self._too_late.start()
        try:
            super().handle()
        finally:
            self._too_late.cancel()

    def _stop_reading(self) -> None:
        with suppress(OSError):  # it has gone
            self.connection.shutdown(SHUT_RD)


def server_of(listening: socket, collect: Collect) -> HTTPServer:
    """A server at this socket; each scrape calls `collect`, one at a time."""
    one_at_a_time = Lock()

    def collect_alone() -> list[Family]:
        with one_at_a_time:
            return list(collect())

    handler: Any = type("Handler", (_Handler,), {"registry": registry_of(collect_alone)})
    server = _Server(listening.getsockname()[:2], handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    return server


def registry_of(collect: Collect) -> CollectorRegistry:
    """A registry of prometheus_client that holds only this."""

    class _Collector(Collector):
        def collect(self) -> Iterable[Family]:
            return collect()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector())
    return registry


def text_of(collect: Collect) -> str:
    """What a scrape would return, in Prometheus' text format."""
    return generate_latest(registry_of(collect)).decode()
