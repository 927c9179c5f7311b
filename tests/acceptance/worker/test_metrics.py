"""The port of a worker host: one for a supervisor and its processes, whichever of them is killed."""

from __future__ import annotations

from collections.abc import Callable
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families

from levelq_core import Settings
from tests.support.fixtures.ports import free_port
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until
from tests.support.system import System, ended, up

Start = Callable[..., Started]


class Scraped:
    """What the port of a host serves."""

    def __init__(self) -> None:
        self.port = free_port()
        self._applied = 0.0

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the series that have these labels; None if nothing listens. Applied commands never fall."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                families = text_string_to_metric_families(answer.read().decode())
        except URLError:
            return None
        samples = [sample for family in families for sample in family.samples]
        applied = sum(s.value for s in samples if s.name == APPLIED and s.labels["outcome"] == "applied")
        assert applied >= self._applied
        self._applied = applied
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def applied(self) -> float | None:
        return self.value(APPLIED, outcome="applied", specialization="PLAYER", kind="level_up")


APPLIED = "levelq_commands_total"


def named(supervisor: Started, name: str) -> list[psutil.Process]:
    return [process for process in children(supervisor) if process.name() == name]


def send(system: System, number: int) -> None:
    system.producer.send_many([up(1 + n % 20) for n in range(number)])


def test_counters_of_a_host_do_not_fall_when_its_processes_are_killed(start: Start, system: System) -> None:
    host = Scraped()
    supervisor = start("worker", "--processes", "2", LEVELQ_METRICS_PORT=str(host.port))
    until(lambda: host.value("levelq_worker_processes") == 2, what="two processes")
    send(system, 200)
    until(lambda: host.applied() == 200, what="200 commands")
    assert host.value("levelq_send_to_commit_seconds_count") == 200
    for process in named(supervisor, "levelq-worker"):
        process.kill()
    until(lambda: host.value("levelq_worker_restarts_total") == 2, what="their restart")
    until(lambda: host.value("levelq_worker_processes") == 2, what="two processes again")
    (exporter,) = named(supervisor, "levelq-metrics")
    exporter.kill()
    send(system, 100)
    until(lambda: host.applied() == 300, what="300 commands, from another exporter")
    taken = start("worker", LEVELQ_METRICS_PORT=str(host.port))
    where = f"cannot listen at 127.0.0.1 port {host.port} (LEVELQ_METRICS_HOST): Address already in use"
    assert ended(taken) == (2, f"levelq: LEVELQ_METRICS_PORT: {where}\n")
    supervisor.terminate()
    code, output = ended(supervisor)
    assert code == 0 and "metrics" in output  # the log of the exporter that was killed
    assert host.applied() is None


def test_rq_worker_serves_its_own_figures(start: Start, system: System, settings: Settings) -> None:
    host = Scraped()
    options = ("-w", "levelq_worker.LaneWorker", "--url", settings.queue_url, settings.keys.queue("PLAYER"))
    worker = start("worker", *options, module="rq.cli", LEVELQ_METRICS_PORT=str(host.port))
    until(lambda: host.value("levelq_worker_processes") == 1, what="its port")
    send(system, 50)
    until(lambda: host.applied() == 50, what="50 commands")
    worker.terminate()
    assert ended(worker)[0] == 0


def test_levelq_metrics_reads_anew_at_each_scrape_until_it_is_stopped(start: Start, system: System) -> None:
    namespace = Scraped()
    server = start("metrics", "--port", str(namespace.port))
    until(lambda: namespace.value("levelq_up") == 3, what="three servers up")
    system.fill(30, users=3)
    assert namespace.value("levelq_waiting_commands", specialization="PLAYER") == 30
    assert namespace.value("levelq_ready_lanes", specialization="PLAYER") == 3
    server.terminate()
    assert ended(server) == (0, f"http://127.0.0.1:{namespace.port}/metrics\n")
