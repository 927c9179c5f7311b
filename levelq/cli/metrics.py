"""`levelq metrics`: what a namespace holds, in Prometheus' text format."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from .screen import err, print_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from levelq_core.operations.readings.gauges import Gauges


def metrics(
    port: Annotated[
        int | None, Option("--port", min=1, max=65_535, help="Serve them at this port, until stopped.")
    ] = None,
) -> None:
    """Print what waits, who serves it and how the tables stand, in Prometheus' text format.

    One reading holds the whole namespace, so scrape it once, not on every worker host; what workers do, they serve
    themselves at LEVELQ_METRICS_PORT. With --port each scrape is a new reading, one at a time, at LEVELQ_METRICS_HOST.
    Exit code 1 if a server is away or something could not be read; stderr has a line for each.
    """
    from levelq_core.operations.readings.gauges import gauges
    from levelq_worker.metrics.exposition import server_of, text_of
    from levelq_worker.metrics.host import listen

    from .connections import load

    settings = load()
    reported: set[str] = set()

    def report(found: Gauges) -> Gauges:
        """Print the problems that were not there before."""
        _print_problems(set(found.problems) - reported)
        reported.clear()
        reported.update(found.problems)
        return found

    if port is None:
        sys.stdout.write(text_of(lambda: families(report(gauges(settings)))))
        raise Exit(1 if reported else 0)
    from levelq_worker.process.startup import watch_for_stop

    server = server_of(listen(settings.metrics_host, port, "--port"), lambda: families(report(gauges(settings))))
    watch_for_stop(0)
    print_line(f"http://{settings.metrics_host}:{port}/metrics", on=err)
    server.serve_forever()


def families(found: Gauges) -> Iterator[Metric]:
    """Every gauge that has a sample, for prometheus_client."""
    from prometheus_client.core import GaugeMetricFamily

    from levelq_core.operations.readings.gauges import GAUGES

    for name, (labels, meaning) in GAUGES.items():
        samples = [sample for sample in found.samples if sample.name == name]
        made = GaugeMetricFamily(name, meaning, labels=labels)
        for sample in samples:
            made.add_metric([sample.labels[label] for label in labels], sample.value)
        if samples:
            yield made


def _print_problems(problems: Iterable[str]) -> None:
    for problem in sorted(problems):
        print_line(f"levelq: {problem}", on=err)
