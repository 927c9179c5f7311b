"""Acts on running specializations: what each says before, what it then does, and the line it leaves in the audit."""

from pathlib import Path
from typing import Any

import httpx

from levelq_core import Settings
from levelq_core.keys import Partition
from levelq_core.lanes.pauses import pauses
from levelq_core.operations.audit import account
from levelq_core.operations.readings.status import status
from tests.support.console import Page, Site, act, add_login, assert_escaped, login, served
from tests.support.fixtures.keys import KEYS
from tests.support.hostile import HTML, TEXTS
from tests.support.outbox import OutboxSystem
from tests.support.system import PLAYER, System, up

COACH = Partition("COACH")


def audited(system: System) -> list[tuple[Any, ...]]:
    """What was done to what by whom."""
    return system.rows("SELECT action, target, split_part(actor, ' as ', 1), detail FROM levelq_audit ORDER BY id")


def notice(page: httpx.Response) -> str:
    """The sentence on the page after an act."""
    assert page.status_code == 200, page.text
    _, _, after = page.text.partition('<p class="notice" role="status">')
    return Page(after.partition("</p>")[0]).text


def test_pause_holds_workers_back_until_it_is_resumed(system: System, client: httpx.Client) -> None:
    system.push(up(1), up(2))
    done = act(client, "/act/pause?specialization=player", **{"for": "1h", "reason": "the ledger moves"})
    assert (done.url.path, "PLAYER: paused until" in notice(done)) == ("/partitions/PLAYER:1:0", True)
    assert "the ledger moves" in Page(done.text).text
    system.run_drains(PLAYER)
    assert system.applied() == 0
    (pause,) = status(system.settings).pauses
    assert (pause.actor, pause.reason, pause.user) == (account(), "the ledger moves", None)
    done = act(client, "/act/resume?specialization=PLAYER")
    assert notice(done) == "PLAYER: resumed."
    system.drain()
    assert system.applied() == 2
    assert [(action, target, actor) for action, target, actor, _ in audited(system)] == [
        ("pause", "PLAYER", account()), ("resume", "PLAYER", account()),
    ]  # fmt: skip


def test_pause_of_one_user_leaves_the_others_alone(system: System, client: httpx.Client) -> None:
    system.push(up(1), up(2))
    says = Page(client.get("/act/pause?specialization=PLAYER&user=1").text).text
    assert "Workers stop taking commands of user 1 in PLAYER." in says
    assert "levelq pause PLAYER --user 1" in says
    url = "/act/pause?specialization=PLAYER&user=1"
    assert client.post(url, data=form(client, url)).headers["location"] == "/users/1"
    system.run_drains(PLAYER)
    assert system.rows("SELECT user_id FROM levelq_ledger") == [(2,)]
    assert pauses(system.redis, KEYS, PLAYER).keys() == {1}
    shown = client.get("/partitions/PLAYER:1:0").text
    assert "Parked lanes" not in shown  # it is among what is paused
    assert "/act/resume?specialization=PLAYER&amp;user=1" in shown and "/users/1" in shown
    assert "user 1 in PLAYER" in Page(client.get("/act/resume?specialization=PLAYER&user=1").text).text
    assert audited(system)[0][:3] == ("pause", "user 1 PLAYER", account())


def form(client: httpx.Client, url: str, **fields: str) -> dict[str, str]:
    """What the confirmation's form would send."""
    return Page(client.get(url).text).form() | fields


def test_confirmation_changes_nothing(outbox: OutboxSystem, settings: Settings) -> None:
    outbox.send(1, 2)
    outbox.push(up(5))
    outbox.redis.hset(KEYS.of(PLAYER, "parked"), "9", "no note")
    before = snapshot(outbox)
    with served(settings) as site:
        says = {name: Page(site.client.get(f"/act/{name}?specialization=PLAYER").text).text for name in ACTS}
    assert snapshot(outbox) == before
    assert audited(outbox) == []
    assert "2 undecided ones of PLAYER" in says["rebuild"]
    assert KEYS.of(PLAYER, "parked") in says["rebuild"]
    assert "Cancel 1 command" in says["purge"] and "To confirm, type PLAYER" in says["purge"]
    assert "PLAYER is not paused." in says["resume"]


ACTS = ("pause", "resume", "rebuild", "purge")


def snapshot(system: System) -> dict[bytes, bytes]:
    return {key: system.redis.dump(key) for key in system.redis.scan_iter()}


def test_purge_cancels_only_after_the_name_was_typed(system: System, client: httpx.Client) -> None:
    system.push(up(1), up(2), up(2))
    system.push(up(3, specialization="COACH"))
    url = "/act/purge?specialization=PLAYER"
    wrong = client.post(url, data=form(client, url, name="COACH"))
    assert (wrong.status_code, system.status().waiting) == (400, 3)
    assert "name: expected PLAYER, got 'COACH'; nothing was cancelled" in Page(wrong.text).text
    assert notice(act(client, url, name="PLAYER")) == "PLAYER: 3 commands cancelled."
    assert (system.status().waiting, system.status(COACH).waiting) == (0, 1)
    assert system.rows("SELECT DISTINCT error FROM levelq_ledger") == [("cancelled",)]
    ((action, target, actor, detail),) = audited(system)
    assert (action, target, actor, detail["cancelled"]) == ("purge", "PLAYER", account(), 3)
    assert client.post(url, data=form(client, url, name="PLAYER")).status_code == 409


def test_rebuild_puts_back_what_redis_lost_and_removes_what_cannot_be_read(
    outbox: OutboxSystem, settings: Settings
) -> None:
    outbox.send(1, 2, user_id=7)
    outbox.relay().poll()
    outbox.redis.delete(KEYS.lane(PLAYER, 7))
    outbox.redis.hset(KEYS.of(PLAYER, "paused"), "9", "no pause")
    with served(settings) as site:
        done = act(site.client, "/act/rebuild?specialization=PLAYER")
    assert notice(done) == "PLAYER: 2 commands put back into lanes, 1 key removed."
    assert outbox.lane(7) == [1, 2]
    assert not outbox.redis.exists(KEYS.of(PLAYER, "paused"))
    ((action, target, actor, detail),) = audited(outbox)
    assert (action, target, actor, detail["commands_restored"]) == ("rebuild", "PLAYER", account(), 2)


def test_audit_has_the_login_and_a_reader_may_not_act(system: System, settings: Settings, logins: Path) -> None:
    ann, bob = add_login(logins, "ann"), add_login(logins, "bob", "reader")
    url = "/act/pause?specialization=PLAYER"
    with served(settings.model_copy(update={"console_logins": logins})) as site, site.browser() as reader:
        login(reader, bob)
        assert (reader.get(url).status_code, "/act/" in reader.get("/partitions/PLAYER:1:0").text) == (403, False)
        login(site.client, ann)
        assert (reader.post(url, data=form(site.client, url)).status_code, audited(system)) == (403, [])
        act(site.client, url)
        act(site.client, "/act/rebuild?specialization=COACH")
        assert "paused by ann" in " ".join(Page(reader.get("/partitions/PLAYER:1:0").text).text.split())
    assert [line[2] for line in audited(system)] == ["ann", "ann"]


def test_nobody_acts_on_a_console_that_is_read_only(system: System, settings: Settings) -> None:
    system.push(up(1))
    with served(settings, read_only=True) as site:
        for name in ACTS:
            url = f"/act/{name}?specialization=PLAYER"
            assert (site.client.get(url).status_code, site.client.post(url).status_code) == (403, 403)
        assert "/act/" not in site.client.get("/partitions/PLAYER:1:0").text
    assert (system.status().waiting, audited(system)) == (1, [])


WRONG = {
    "/act/purge": "specialization: expected one of PLAYER, COACH, INTERNSHIP, got none",
    "/act/rebuild?specialization=WIZARD": "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'",
    "/act/pause?specialization=%1b[2J<b>": r"got '\x1b[2J<b>'",
    "/act/pause?user=0": "user: expected 1 to 9223372036854775807, got '0'",
    "/act/pause?user=1%20OR%201": "user: expected 1 to 9223372036854775807, got '1 OR 1'",
    "/act/pause?for=soon": "for: expected 30m, 1h or 2d, got 'soon'",
}


def test_wrong_url_is_answered_with_what_was_expected(client: httpx.Client) -> None:
    for url, says in WRONG.items():
        answer = client.get(url)
        assert (answer.status_code, says in Page(answer.text).text) == (400, True), url
        assert_escaped(answer.text)


def test_hostile_reason_is_shown_as_text(system: System, site: Site) -> None:
    texts = [text[:60] for text in (*TEXTS.values(), *HTML.values())]
    for user, reason in enumerate(texts, 1):
        system.redis.hset(KEYS.of(PLAYER, "paused"), str(user), f"1764000000000 0 {reason.replace('|', '/')}|{reason}")
    page = site.client.get("/partitions/PLAYER:1:0")
    assert_escaped(page.text, *texts)
    assert_escaped(site.client.get("/act/resume?specialization=PLAYER&user=1").text, texts[0])
    done = act(site.client, "/act/pause?specialization=COACH", reason=HTML["element"])
    assert_escaped(done.text, HTML["element"])


def test_long_reason_is_refused(client: httpx.Client) -> None:
    url = "/act/pause?specialization=PLAYER"
    refused = client.post(url, data=form(client, url, reason="x" * 201))
    assert (refused.status_code, "reason: expected at most 200 characters, got 201" in refused.text) == (400, True)
