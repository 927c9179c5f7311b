"""Cancel, sync and forget from the console: said beforehand, done as said, and in the audit by the login's name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from levelq_core import Settings
from levelq_core.operations.queries import outcome_of
from levelq_core.redis_client.topology import time_ms
from tests.support.console import Page, Site, act, add_login, assert_escaped, login, served
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, up

LANE = "user=7&specialization=PLAYER"


@pytest.fixture
def site(system: System, settings: Settings, logins: Path) -> Iterator[Site]:
    """The console; its browser is logged in as ann, an operator."""
    given = add_login(logins, "ann")
    with served(settings.model_copy(update={"console_logins": logins})) as made:
        assert login(made.client, given).status_code == 303
        yield made


def audit(system: System) -> list[tuple[Any, ...]]:
    """Who did what to what."""
    return system.rows("SELECT split_part(actor, ' as ', 1), action, target FROM levelq_audit ORDER BY id")


def planned(client: httpx.Client, url: str) -> str:
    """What the confirmation says."""
    page = client.get(url)
    assert page.status_code == 200
    assert_escaped(page.text)
    return " ".join(Page(page.text).text.split())


def test_one_command_is_cancelled_and_the_others_keep_waiting(site: Site, system: System) -> None:
    first, second = up(7, 600, reason='<b>"match"</b>'), up(7, 5)
    system.push(first, second)
    url = f"/act/cancel?{LANE}&id={first.command_id}"
    text = planned(site.client, url)
    assert f"Command {first.command_id} of user 7 in PLAYER is cancelled" in text and "+600 XP" in text
    assert f"levelq cancel 7 PLAYER --id {first.command_id}" in text
    assert system.status().waiting == 2 and system.applied() == 0 and audit(system) == []
    page = act(site.client, url)
    assert page.url.path == "/users/7" and "user 7 PLAYER: 1 command cancelled." in page.text
    assert system.status().waiting == 1
    with system.engine.connect() as connection:
        decided = outcome_of(connection, first.command_id)
        assert decided is not None and decided.error == "cancelled"
        assert outcome_of(connection, second.command_id) is None
    assert audit(system) == [("ann", "cancel", "user 7 PLAYER")]
    text = planned(site.client, url)
    assert "It was decided: rejected, cancelled" in text and "Cancel this command" not in text
    assert site.client.post(url, data=Page(site.client.get(url).text).form()).status_code in (403, 409)
    assert "does not wait there" in planned(site.client, f"/act/cancel?{LANE}&id={uuid4()}")


def test_all_that_waits_of_a_lane_is_cancelled_and_nothing_else(site: Site, system: System) -> None:
    system.push(up(7), up(7), up(7, 1, "COACH"), up(8))
    system.commit(up(7, 5))
    text = planned(site.client, f"/act/cancel?{LANE}")
    assert "in the lane 2 commands" in text and "in the outbox 1 row" in text
    page = act(site.client, f"/act/cancel?{LANE}")
    assert "user 7 PLAYER: 3 commands cancelled." in page.text
    assert system.rows("SELECT count(*) FROM levelq_outbox") == [(0,)]
    assert system.redis.llen(system.settings.keys.lane(PLAYER, 8)) == 1 and system.applied() == 3
    assert "Nothing waits there." in planned(site.client, f"/act/cancel?{LANE}")


def test_what_is_sent_after_the_confirmation_was_shown_stays(site: Site, system: System) -> None:
    system.push(up(7), up(7))
    system.commit(up(7, 5))
    url = f"/act/cancel?{LANE}"
    form = Page(site.client.get(url).text).form()
    shown = time_ms(system.redis)
    until(lambda: time_ms(system.redis) > shown)  # entries hold their time in milliseconds
    later = [up(7, 70), up(7, 700)]
    system.push(later[0])
    system.commit(later[1])
    assert site.client.post(url, data=form).status_code == 303
    assert "user 7 PLAYER: 3 commands cancelled." in site.client.get("/users/7").text
    assert system.rows("SELECT command_id FROM levelq_outbox") == [(later[1].command_id,)]
    assert site.client.post(url, data=form).status_code == 409  # as by a second click
    refused = site.client.post(url, data={"csrf": form["csrf"]})
    assert (refused.status_code, "shown: expected what the confirmation showed" in refused.text) == (400, True)
    refused = site.client.post(url, data={"csrf": form["csrf"], "shown": "x"})
    assert (refused.status_code, "got &#39;x&#39;" in refused.text) == (400, True)
    system.drain()
    applied = system.rows("SELECT command_id FROM levelq_ledger WHERE status = 'applied'")
    assert applied == [(later[0].command_id,)]


@pytest.mark.parametrize(("source", "level"), [("progress", 2), ("license", 4)])
def test_sync_says_what_each_source_does_and_copies_the_chosen(
    site: Site, system: System, source: str, level: int
) -> None:
    system.push(up(7, 1200))
    system.drain()
    system.sql("UPDATE user_licenses SET current_level = 4 WHERE user_id = 7")
    url = f"/act/sync?{LANE}"
    text = planned(site.client, url)
    assert "if the progress is copied 2 2 2" in text and "if the license is copied 4 4 4" in text
    assert Page(site.client.get(url).text).form()["source"] == "license"
    assert audit(system) == []
    page = act(site.client, url, source=source)
    assert f"both levels are {level}." in page.text
    both = "SELECT p.current_level, l.current_level FROM specialization_progress p, user_licenses l"
    assert system.rows(both) == [(level, level)]
    assert audit(system) == [("ann", "sync", "user 7 PLAYER")]
    assert f"Both levels are {level} already." in planned(site.client, url)


def test_sync_makes_a_missing_row_and_refuses_where_there_is_no_level(site: Site, system: System) -> None:
    assert "there is nothing to copy" in planned(site.client, f"/act/sync?{LANE}")
    system.sql("INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level) "
               "VALUES (7, 'PLAYER', 3, 5)")  # fmt: skip
    assert "now none 3 5" in planned(site.client, f"/act/sync?{LANE}")
    assert "created progress, both levels are 3." in act(site.client, f"/act/sync?{LANE}").text


def test_user_is_forgotten_only_when_the_id_is_typed(site: Site, system: System) -> None:
    system.push(up(7, 1200))
    system.drain()
    system.push(up(7, 5))
    text = planned(site.client, "/act/forget?user=7")
    assert "1 progress row, 1 license row, 1 progression" in text and "PLAYER: 1 command in lanes" in text
    refused = act(site.client, "/act/forget?user=7", confirm="8")
    assert refused.status_code == 400 and "confirm: expected 7, got '8'; nothing was erased" in Page(refused.text).text
    assert system.rows("SELECT count(*) FROM user_licenses") == [(1,)] and system.status().waiting == 1
    page = act(site.client, "/act/forget?user=7", confirm="7")
    assert page.status_code == 200 and "user 7 is forgotten: 1 command cancelled, 3 rows deleted" in page.text
    assert system.rows("SELECT count(*) FROM user_licenses") == [(0,)] and system.status().waiting == 0
    assert audit(system) == [("ann", "forget", "user 0")]
    assert "levelq keeps nothing of user 7." in planned(site.client, "/act/forget?user=7")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("cancel?specialization=PLAYER", "user: expected 1 to 9223372036854775807, got none"),
        ("cancel?user=7", "specialization: expected one of"),
        ("cancel?user=7&specialization=<b>", "specialization: expected one of"),
        (f"cancel?{LANE}&id=x", "id: expected a command's id (a UUID), got 'x'"),
        ("sync?user=x&specialization=PLAYER", "user: expected 1 to 9223372036854775807, got 'x'"),
        ("forget", "user: expected 1 to 9223372036854775807, got none"),
    ],
)
def test_wrong_argument_is_named_with_what_was_expected(client: httpx.Client, url: str, said: str) -> None:
    page = client.get(f"/act/{url}")
    assert page.status_code == 400
    assert_escaped(page.text)
    assert said in Page(page.text).text


def test_whoever_may_not_act_sees_no_act_and_gets_403(
    site: Site, system: System, settings: Settings, logins: Path
) -> None:
    system.push(up(7))
    with served(settings, read_only=True) as read_only, site.browser() as reader:
        assert login(reader, add_login(logins, "rob", "reader")).status_code == 303
        for browser in (read_only.client, reader):
            page = browser.get("/users/7")
            assert page.status_code == 200 and "level_up +1 XP" in page.text and "/act/" not in page.text
            for url in (f"/act/cancel?{LANE}", f"/act/sync?{LANE}", "/act/forget?user=7"):
                form = Page(page.text).form() | {"confirm": "7", "source": "license"}
                assert browser.get(url).status_code == browser.post(url, data=form).status_code == 403
    assert system.status().waiting == 1 and audit(system) == []
