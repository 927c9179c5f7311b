"""The page of a partition: what it holds, why something waits, and what other programs wrote into its keys."""

import httpx
import pytest

from levelq_core import Settings
from levelq_core.operations.readings.partition import MOST_DEEP, MOST_PARKED, partition_report
from levelq_worker.reporter import Reporter
from tests.support.console import Page, Site, assert_escaped, served
from tests.support.coupler import session
from tests.support.fixtures.keys import KEYS
from tests.support.hostile import HTML, TEXTS
from tests.support.system import PLAYER, System, up

URL = "/partitions/PLAYER:1:0"


def text(client: httpx.Client, url: str = URL) -> str:
    """What the page says, on one line."""
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return " ".join(Page(answer.text).text.split())


def test_lanes_are_shown_with_their_users_and_counts(system: System, client: httpx.Client) -> None:
    system.push(*(up(7) for _ in range(3)), up(8))
    page = client.get(URL)
    links = [element.attributes.get("href") for element in Page(page.text).named("a")]
    assert "/users/7" in links and "/users/8" in links
    assert "/act/pause?specialization=PLAYER&user=7" in links
    shown = text(client)
    assert "Waiting 4" in shown and "Ready 2" in shown and "No worker serves PLAYER" in shown
    assert "4 commands waiting and no worker serves it: levelq worker -s PLAYER" in shown


def test_parked_lane_is_shown_with_its_reason_and_who_holds_the_row(system: System, client: httpx.Client) -> None:
    system.push(up(7))
    system.drain()
    with session(str(system.settings.database_url)) as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id = 7 FOR UPDATE")
        system.push(up(7), up(8))
        system.run_drains(PLAYER)
        shown = text(client)
        pid = holder.info.backend_pid
    assert "Parked 1" in shown and "other code holds its rows" in shown
    assert f"SELECT pg_terminate_backend({pid})" in shown


def test_workers_and_hot_lanes_are_those_of_the_partition(system: System, client: httpx.Client) -> None:
    reporter = Reporter(system.worker, ["PLAYER"])
    system.push(*(up(99) for _ in range(50)))
    system.drain()
    reporter.post()
    shown = text(client)
    assert "Hottest lanes" in shown and "99 50 Pause user 99" in shown
    assert "Workers that serve PLAYER1" in shown
    assert "Nothing waits in PLAYER:1:0" in shown
    other = text(client, "/partitions/COACH:1:0")
    assert "Hottest" not in other and "No worker serves COACH" in other
    reporter.stop()


def test_lists_are_bounded_and_totals_are_not(system: System, settings: Settings) -> None:
    lanes = [(user, [b"x" * 60]) for user in range(1, 1_501)]
    system.lanes.push([(PLAYER, lanes)])
    notes = {str(user): "1764000000000 3 learner is blocked (SQLSTATE P0001)" for user in range(1, 1_501)}
    system.redis.hset(KEYS.of(PLAYER, "parked"), mapping=notes)
    found = partition_report(settings, PLAYER, engine=system.engine)
    assert (found.status.waiting, found.status.ready) == (1_500, 1_500)
    assert (len(found.parked_lanes), len(found.longest), len(found.oldest)) == (MOST_PARKED, MOST_DEEP, MOST_DEEP)


def test_unknown_name_is_answered_with_what_is_known(client: httpx.Client) -> None:
    assert client.get("/partitions/player").headers["location"] == URL
    for name in ("WIZARD", "PLAYER:1:7", "%3Cscript%3Ealert(1)%3C%2Fscript%3E".replace("%2F", "%5C"), "%1b%5b2J"):
        answer = client.get(f"/partitions/{name}")
        assert answer.status_code == 404
        assert "expected one of COACH:1:0, INTERNSHIP:1:0, PLAYER:1:0, got" in Page(answer.text).text
        assert_escaped(answer.text)


def test_text_of_others_is_shown_as_text(system: System, site: Site) -> None:
    texts = [each[:60] for each in (*TEXTS.values(), *HTML.values())]
    for user, reason in enumerate(texts, 1):
        system.redis.hset(KEYS.of(PLAYER, "parked"), str(user), b"1764000000000 3 " + reason.encode(errors="replace"))
    for name in (*HTML.values(), "\x1b[2J", "\u202ecba"):
        system.redis.rpush(KEYS.of(PLAYER, f"lane:{name}"), b"not an entry")
        system.redis.zadd(KEYS.of(PLAYER, "ready"), {name: 1})
    page = site.client.get(URL)
    assert_escaped(page.text, *texts, HTML["element"], "\x1b[2J")


@pytest.mark.parametrize("url", [URL, "/workers"])
def test_page_is_shown_while_redis_is_away(url: str, settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "rq_url": None})
    with served(away) as site:
        page = site.client.get(url)
        assert (page.status_code, "LEVELQ_REDIS_URL" in page.text) == (200, True)
