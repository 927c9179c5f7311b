"""The first page: what it says of a system that is empty, has a problem, is paused, or has lost its Redis."""

import time

import httpx
import pytest

from levelq_core import Adjust, Settings
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.trend_slots import DAY, HOUR
from levelq_core.lanes.worker_reports import WorkerReports
from levelq_core.operations.pausing import PauseScope, Pausing
from levelq_core.operations.readings.status import status
from levelq_worker.reporter import Reporter
from tests.support.console import Page, Site, assert_escaped, served
from tests.support.fixtures.command_line import NOWHERE
from tests.support.hostile import HTML
from tests.support.system import System, up


def problems(page: str) -> list[str]:
    """Where each line that says what is wrong leads."""
    return [
        found.attributes["href"] for found in Page(page).named("a") if found.attributes.get("class") == "what-to-do"
    ]


def test_an_empty_system_is_well_and_says_what_to_do(client: httpx.Client) -> None:
    page = client.get("/").text
    assert "All is well" in page
    assert problems(page) == []
    for title in ("No history yet", "No lane holds a command", "No worker reports"):
        assert title in page
    assert "levelq send level-up 42 PLAYER" in page


def test_malformed_entries_and_open_rejections_are_notes_and_the_writer_can_be_ended(
    system: System, client: httpx.Client
) -> None:
    system.push_raw(4, b"rubbish")
    system.push(Adjust(user_id=5, specialization="PLAYER", xp_change=-1))
    system.drain()
    system.redis.rpush("elsewhere", "x")
    page = client.get("/").text
    assert "malformed entries in the last hour: 1" in page
    assert "1 rejected command to be retried or discarded" in page
    assert {"/runbook#levelqquarantine", "/runbook#levelqrejections"} <= set(problems(page))
    (number,) = [writer.id for writer in status(system.settings).hot_spots.list_writers]
    assert f"CLIENT KILL ID {number}" in client.get("/quarantined").text


def test_what_is_wrong_is_said_in_the_words_of_status_with_its_section_of_the_runbook(
    system: System, client: httpx.Client
) -> None:
    system.push(up(7), up(7), up(8))
    page = client.get("/").text
    (problem,) = status(system.settings).problems
    assert problem in page
    assert "1 problem" in page
    assert problems(page) == ["/runbook#levelqnoworker"]
    assert 'id="levelqnoworker"' in client.get("/runbook").text
    links = {found.attributes["href"] for found in Page(page).named("a")}
    assert {"/users/7", "/users/8", "/partitions/PLAYER%3A1%3A0"} <= links


def test_a_part_is_only_that_section_of_the_page(client: httpx.Client) -> None:
    whole = client.get("/").text
    parts = [found.attributes["data-refresh"] for found in Page(whole).elements if "data-refresh" in found.attributes]
    assert len(parts) == 4
    for url in parts:
        part = client.get(url)
        assert part.status_code == 200
        assert part.text.strip()
        assert "<html" not in part.text


@pytest.mark.parametrize("window", ["1h", "24h"])
def test_what_workers_did_is_drawn_and_listed(
    system: System, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, window: str
) -> None:
    seconds = (HOUR if window == "1h" else DAY).slot_seconds
    before = 1000 * (int(time.time()) - seconds)  # in the slot before the one under way
    monkeypatch.setattr(WorkerReports, "now_ms", lambda self: before)
    reporter = Reporter(system.worker, ["PLAYER"])
    system.push(*(up(user) for user in range(1, 121)))
    system.drain("PLAYER")
    reporter.post()
    reporter.stop()
    page = Page(client.get("/", params={"window": window}).text)
    applied, *others = page.named("svg")[1:]  # the first is the name's
    rate = {"1h": "6/s", "24h": "0.2/s"}[window]
    assert f"highest {rate}" in applied.attributes["aria-label"]
    assert len(others) == 5
    assert rate in page.text[page.text.index("The numbers of these charts") :]


def test_an_unknown_window_is_refused_with_what_was_expected(client: httpx.Client) -> None:
    refused = client.get("/", params={"window": '<b>"week"'})
    assert refused.status_code == 400
    assert "window: expected 1h or 24h, got" in refused.text
    assert_escaped(refused.text, '<b>"week"')


def test_pauses_are_listed_with_hostile_words_escaped(system: System, site: Site) -> None:
    for user, words in enumerate(HTML.values()):
        pausing = Pausing(None, LaneEditor(system.redis, system.settings), system.waker, system.settings, actor=words)
        pausing.pause(PauseScope(["PLAYER"], user), reason=words)
    page = site.client.get("/").text
    assert "paused by" in page
    assert_escaped(page, *HTML.values())


def test_without_redis_the_page_says_so_and_is_served(settings: Settings) -> None:
    lost = settings.model_copy(update={"redis_url": f"redis://{NOWHERE}"})
    with served(lost) as site:
        page = site.client.get("/")
    assert page.status_code == 200
    assert set(problems(page.text)) == {"/runbook#levelqserverdown"}
    assert "No partitions to be read" in page.text
