"""The page of the workers: which need attention, and what to do where there are none."""

from collections.abc import Iterator

import httpx
import pytest

from levelq_core.lanes.worker_reports import PartitionFigures, WorkerReport, read
from levelq_worker.reporter import Reporter
from tests.support.console import Page, assert_escaped
from tests.support.console_scene import post_as
from tests.support.hostile import HTML
from tests.support.system import System


@pytest.fixture
def report(system: System) -> Iterator[WorkerReport]:
    """Of a worker that is idle."""
    reporter = Reporter(system.worker, ["PLAYER", "COACH"])
    reporter.post()
    (found,) = read(system.redis, system.settings.keys)
    yield found
    reporter.stop()


def rows(client: httpx.Client) -> list[str]:
    """The rows of the table, each on one line."""
    _, _, body = client.get("/workers").text.partition("<tbody>")
    return [" ".join(Page(row).text.split()) for row in body.partition("</tbody>")[0].split("</tr>")[:-1]]


def test_workers_that_need_attention_come_first(system: System, report: WorkerReport, client: httpx.Client) -> None:
    at = report.posted_ms
    post_as(system, report, 1, version="0.0.9")
    post_as(system, report, 2, state="waiting", why="PostgreSQL does not answer")
    post_as(system, report, 3, state="transaction", partition="PLAYER:1:0", progress_ms=at - 60_000)
    post_as(system, report, 4, posted_ms=at - 60_000)
    shown = rows(client)
    order = [(row.split()[0], next(word for word in row.split() if word in STATES)) for row in shown]
    assert order[:3] == [("web2:4", "silent"), ("web2:3", "hangs"), ("web2:2", "waiting")]
    assert {state for _, state in order[3:]} == {"idle"}
    assert "PostgreSQL does not answer" in shown[2]
    page = Page(client.get("/workers").text).text
    assert "kill -CONT 4" in page and "workers run different versions: 0.0.9 (1 worker)" in page


STATES = ("silent", "hangs", "waiting", "slow", "idle")


def test_no_worker_says_how_to_start_one(client: httpx.Client) -> None:
    page = client.get("/workers").text
    assert "No worker reports" in page and "levelq worker --processes 2" in page


def test_text_of_a_report_is_shown_as_text(system: System, report: WorkerReport, client: httpx.Client) -> None:
    for pid, hostile in enumerate(HTML.values(), 1):
        named = dict.fromkeys(("host", "version", "partition", "why"), hostile)
        post_as(system, report, pid, **named, state="draining", specializations=(hostile,))
    page = client.get("/workers").text
    assert_escaped(page, *HTML.values())
    assert_escaped(client.get("/partitions/PLAYER:1:0").text)


def test_time_that_no_calendar_has_hides_no_other_worker(
    system: System, report: WorkerReport, client: httpx.Client
) -> None:
    far = 2**53 - 1
    changed = {"host": "web2", "pid": 1, "posted_ms": far, "started_ms": far, "state_ms": far, "progress_ms": far}
    system.redis.hset(system.settings.keys.workers, "web2", report.model_copy(update=changed).model_dump_json())
    assert {row.split()[0] for row in rows(client)} == {"web2:1", report.name}
    assert client.get("/").status_code == 200


def test_report_of_a_lag_that_no_clock_measures_is_none(
    system: System, report: WorkerReport, client: httpx.Client
) -> None:
    """A bucket of the histogram stands for a number of some bits: such as this for one of a gigabyte."""
    rates = (0.0, 0.0, 0.0)
    figures = PartitionFigures(decided=rates, rejected=rates, lags={7: 1}, lags_10_min={})
    told = report.model_copy(update={"host": "web2", "partitions": {"PLAYER:1:0": figures}}).model_dump_json()
    system.redis.hset(system.settings.keys.workers, "web2", told.replace('"7":1', '"68719476736":1'))
    assert [row.split()[0] for row in rows(client)] == [report.name]
