"""The page of a user: each state planted on real servers, and what the page says of it."""

from contextlib import closing
from uuid import uuid4

import httpx
import psycopg
import pytest

from levelq import LevelEvents, SetLevel
from levelq_core import Settings
from levelq_core.operations.readings.explanation import explain
from tests.support.console import Page, assert_escaped, served
from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.fixtures.waiting import until
from tests.support.hostile import HTML, TEXTS
from tests.support.system import PLAYER, System, up

BLOCKED = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'learner 7 is blocked'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON specialization_progress
    FOR EACH ROW WHEN (NEW.student_id = 7) EXECUTE FUNCTION refuse()
"""


def read(html: str) -> str:
    """The text of a page, on one line; a name and its value are two words."""
    return " ".join(Page(html.replace("</dt>", "</dt> ").replace("</strong>", "</strong> ")).text.split())


def shown(client: httpx.Client, url: str = "/users/7") -> str:
    """The text of a page, on one line, between its head and its foot."""
    page = client.get(url)
    assert page.status_code == 200, page.text
    assert_escaped(page.text)
    text = read(page.text)
    return text[text.index("Runbook") : text.index("Times in UTC")]


def links(client: httpx.Client, url: str = "/users/7") -> list[str]:
    return [element.attributes.get("href", "") for element in Page(client.get(url).text).named("a")]


def test_user_of_whom_nothing_is_known_is_told_so_with_what_to_do(client: httpx.Client) -> None:
    text = shown(client)
    assert "unknown user user 7 is unknown here" in text and "Nothing was decided yet" in text
    assert "levelq send level-up 7 PLAYER --xp 150" in text


def test_conclusion_comes_first_in_the_words_of_explain(client: httpx.Client, system: System) -> None:
    system.push(up(7, 1200), up(7, 5, "COACH"))
    system.drain("PLAYER", "COACH")
    system.push(up(7, 600, reason="a match", advanced_by=3), up(7))
    found = explain(system.settings, 7)
    assert found.cause == "no_worker"
    system.sql("UPDATE user_licenses SET current_level = 4 WHERE specialization_type = 'PLAYER'")
    assert "also PLAYER: progress and license differ (2 and 4)" in shown(client)
    system.sql("UPDATE user_licenses SET current_level = 2 WHERE specialization_type = 'PLAYER'")
    text = shown(client)
    assert text.index(found.conclusion.split("`")[0].strip()) < text.index("In the lane")
    assert "2 commands, due since" in text and 'level_up +600 XP; by 3, "a match"' in text
    assert "COACH: nothing waits, and both levels are 1" in text
    at = "user=7&specialization=PLAYER"
    assert {f"/act/cancel?{at}", f"/act/pause?{at}"} <= set(links(client))
    (section,) = [e for e in Page(client.get("/users/7").text).elements if "data-refresh" in e.attributes]
    assert 2 <= float(section.attributes["data-seconds"]) <= 5
    part = client.get(section.attributes["data-refresh"]).text
    assert "In the lane" in part and "<html" not in part


def test_parked_paused_and_rejected_say_why_and_offer_the_act(
    client: httpx.Client, system: System, levelq_here: Levelq
) -> None:
    system.sql(BLOCKED)
    system.push(up(7))
    system.run_drains(PLAYER)
    text = shown(client)
    assert "parked since" in text and "Why it is parked learner 7 is blocked (SQLSTATE P0001)" in text
    assert "What to do a trigger or function of the database raised this" in text
    assert levelq_here("pause", "PLAYER", "--user", 7, "--reason", "ticket 4", "--no-wait").code == 0
    text = shown(client)
    assert "paused" in text and "until it is resumed: ticket 4" in text
    assert "operator pause user 7 PLAYER by" in text
    assert "/act/resume?user=7&specialization=PLAYER" in links(client)
    refused = SetLevel(user_id=8, specialization="PLAYER", new_level=99)
    system.push(refused)
    system.run_drains(PLAYER)
    text = shown(client, "/users/8")
    assert "rejected PLAYER: nothing waits; the last command was rejected (new_level:" in text
    assert f"levelq rejected retry {refused.command_id}" in text
    assert f"/rejected/{refused.command_id}" in links(client, "/users/8")


def test_levels_out_of_step_and_a_session_that_holds_the_rows(client: httpx.Client, system: System) -> None:
    system.push(up(7, 1200))
    system.drain()
    system.sql("UPDATE user_licenses SET current_level = 4 WHERE user_id = 7")
    text = shown(client)
    assert "out of step PLAYER: progress and license differ (2 and 4)" in text
    assert "/act/sync?user=7&specialization=PLAYER" in links(client)
    with closing(psycopg.connect(system.settings.database_url or "", application_name="a <b>report</b>")) as held:
        held.execute("SELECT FROM user_licenses WHERE user_id = 7 FOR UPDATE")
        until(lambda: explain(system.settings, 7).cause == "row_held", what="the session to hold for a second")
        text = shown(client)
        assert f"Rows locked by session {held.info.backend_pid} (a <b>report</b>" in text
        assert "SELECT FROM user_licenses WHERE user_id = 7 FOR UPDATE" in text


def test_ten_thousand_waiting_commands_make_no_large_page(client: httpx.Client, system: System) -> None:
    system.fill(10_000, users=1)
    page = client.get("/users/1")
    text = read(page.text)
    assert "10,000 commands, due since" in text and "The first 20 of 10,000" in text
    assert len(page.content) < 40_000


def test_outbox_unread_level_changes_and_older_decisions(client: httpx.Client, system: System) -> None:
    list(LevelEvents(system.engine, "achievements <b>"))
    system.push(*[up(7, 100, reason=f"match {n}.") for n in range(130)])
    system.drain()
    (handle,) = system.commit(up(7, 5, reason="from the shop"))
    text = shown(client)
    assert "In the outbox 1 command, 1 never pushed" in text and "from the shop" in text
    assert f"/act/cancel?user=7&specialization=PLAYER&id={handle.command_id}" in links(client)
    assert "has yet to read" in text and "achievements <b>" in text
    assert text.index("match 129.") < text.index("match 128.") < text.index("match 110.")
    (older,) = [link for link in links(client) if "before=" in link]
    seen = []
    while older:
        text = shown(client, older)
        seen += [n for n in range(130) if f"match {n}." in text]
        older = next((link for link in links(client, older) if "before=" in link), "")
    assert sorted(seen) == list(range(110))
    assert "No earlier decided commands" in shown(client, f"/users/7?before={uuid4()}")


def test_texts_of_others_are_escaped_wherever_they_are_shown(client: httpx.Client, system: System) -> None:
    texts = [text for text in (*HTML.values(), *TEXTS.values()) if "\x00" not in text][:18]
    system.push(*[up(7, 1, reason=text) for text in texts])
    system.drain()
    decided = [row[0] for row in system.rows("SELECT command_id FROM levelq_ledger ORDER BY id")]
    system.push(*[up(7, 1, reason=text) for text in texts])
    page = client.get(f"/users/7?command={decided[0]}").text
    assert_escaped(page, *texts)
    assert_escaped(client.get(f"/users/7?before={decided[-1]}").text, *texts[:-1])


@pytest.mark.parametrize("away", ["LEVELQ_REDIS_URL", "LEVELQ_DATABASE_URL"])
def test_server_that_is_away_is_named_and_the_rest_is_shown(system: System, settings: Settings, away: str) -> None:
    system.push(up(7, 1200))
    system.drain()
    system.push(up(7, 600))
    scheme = "redis" if "REDIS" in away else "postgresql"
    field = away.removeprefix("LEVELQ_").lower()
    with served(settings.model_copy(update={field: f"{scheme}://ann:hunter2@{NOWHERE}/0"})) as site:
        text = shown(site.client)
        assert f"{away}:" in text and "hunter2" not in text
        assert ("level_up +600 XP" in text) == (away == "LEVELQ_DATABASE_URL")
        assert ("level 1 -> 2" in text) == (away == "LEVELQ_REDIS_URL")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/users/0", "user: expected 1 to 9223372036854775807, got '0'"),
        ("/users/<b>", "user: expected 1 to 9223372036854775807, got '<b>'"),
        ("/users/7?before=x", "before: expected a command's id (a UUID), got 'x'"),
        ("/users/7?command=x", "command: expected a command's id (a UUID), got 'x'"),
    ],
)
def test_wrong_value_in_the_url_is_named_with_what_was_expected(client: httpx.Client, url: str, said: str) -> None:
    page = client.get(url)
    assert page.status_code == 400
    assert_escaped(page.text, said)
    assert said in Page(page.text).text
