"""The search: from a user's id or a command's id to the page, in bounded time."""

from uuid import UUID, uuid4

import httpx
import pytest

from levelq_core import Settings
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.operations.readings import lane_search
from tests.support.console import Page, assert_escaped, served
from tests.support.fixtures.command_line import NOWHERE
from tests.support.system import PLAYER, System, up


def target(client: httpx.Client, query: str) -> str:
    """Where a search leads."""
    answer = client.get("/search", params={"q": query})
    assert answer.status_code == 303
    return answer.headers["location"]


def found(client: httpx.Client, command_id: UUID) -> httpx.Response:
    """The page to which the search for a command leads."""
    return client.get("/search", params={"q": str(command_id)}, follow_redirects=True)


def test_ids_lead_to_their_pages(client: httpx.Client) -> None:
    command_id = uuid4()
    assert target(client, " 42 ") == "/users/42"
    assert target(client, str(command_id).upper()) == target(client, command_id.hex) == f"/commands/{command_id}"


@pytest.mark.parametrize("given", ["", "ann", "0", "9" * 19, "٤٢", "<script>alert(1)</script>"])
def test_what_is_no_id_is_refused_with_what_was_expected(client: httpx.Client, given: str) -> None:
    page = client.get("/search", params={"q": given})
    assert page.status_code == 400
    said = Page(page.text).text
    assert "q: expected a user's id (1 to 9223372036854775807) or a command's id (a UUID), got '" in said
    assert_escaped(page.text, *([given] if given else []))


def test_command_is_shown_on_its_users_page_wherever_it_is(client: httpx.Client, system: System) -> None:
    decided, waits = up(7, 1200, reason="the final"), up(7, 9, "COACH")
    system.push(decided)
    system.drain()
    system.push(waits)
    (handle,) = system.commit(up(8, 5))
    page = found(client, decided.command_id)
    assert str(page.url).endswith(f"/users/7?command={decided.command_id}#c-{decided.command_id}")
    ids = [element.attributes["id"] for element in Page(page.text).elements if "id" in element.attributes]
    assert ids.count(f"c-{decided.command_id}") == 1
    said = " ".join(Page(page.text.replace("</dt>", "</dt> ")).text.split())
    assert "Level 1 → 2" in said and "Reason the final" in said and "XP 0 → 1,200" in said
    assert "It waits in COACH and is not decided yet" in Page(found(client, waits.command_id).text).text
    assert "It waits in PLAYER and is not decided yet" in Page(found(client, handle.command_id).text).text
    system.lanes.claim(Partition("COACH"), "drain", "worker 1", 100)
    assert "claimed by worker until" in Page(found(client, waits.command_id).text).text
    assert "It neither waits here" in Page(client.get(f"/users/9?command={waits.command_id}").text).text


def test_unknown_command_is_told_with_what_that_may_mean(client: httpx.Client) -> None:
    command_id = uuid4()
    page = found(client, command_id)
    assert page.status_code == 404
    assert f"{command_id}" in page.text and "the ledger no longer keeps it" in " ".join(page.text.split())
    assert client.get("/commands/42").status_code == 400


def test_lane_among_many_is_found_without_reading_each(
    client: httpx.Client, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition with more than is read is left, and said; the others are searched all the same."""
    monkeypatch.setattr(lane_search, "FOUND_AMONG", 100)
    system.fill(300, users=150)
    coach, hidden = up(7, 9, "COACH"), up(151)
    system.push(coach)
    system.lanes.push([(PLAYER, [(151, [encode(hidden)])])])
    first = UUID(bytes=system.redis.lindex(system.settings.keys.lane(PLAYER, 1), 0)[17:33])
    before = calls(system)
    assert "/users/7?" in str(found(client, coach.command_id).url)
    assert "/users/1?" in str(found(client, first).url)
    page = found(client, hidden.command_id)
    assert page.status_code == 404 and "search for the user's id instead" in page.text
    assert calls(system) - before < 150  # not one for each of the 151 lanes
    assert "It waits in PLAYER" not in page.text


def calls(system: System) -> int:
    """How many scripts that read Redis has run, and steps over all keys."""
    stats = system.redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval_ro", "evalsha_ro", "scan"))


def test_server_that_is_away_is_no_answer_that_a_command_is_unknown(system: System, settings: Settings) -> None:
    with served(settings.model_copy(update={"redis_url": f"redis://:hunter2@{NOWHERE}/0"})) as site:
        page = found(site.client, uuid4())
        assert page.status_code == 503 and "LEVELQ_REDIS_URL" in page.text and "hunter2" not in page.text
        assert "no longer keeps it" not in page.text
