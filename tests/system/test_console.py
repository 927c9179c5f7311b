"""The console in Debian's Chromium: every page and every act, by keyboard, light, dark and on a phone."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.keys import Keys
from starlette.routing import Route

from levelq.console.access.login_file import append, new_login
from levelq.console.console import Console
from levelq.console.serving import listen, serving
from levelq.server_account import temporary_folder
from levelq_core import Settings
from levelq_core.domain.codec import encode
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.pauses import pauses
from levelq_core.operations.pausing import PauseScope, Pausing
from levelq_core.operations.readings.status import status
from levelq_worker.auditor import Auditor
from tests.support.console import Site, served
from tests.support.console_scene import Scene, drift, rejected_with, scene
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.ports import free_port
from tests.support.hostile import HTML, RAW, TEXTS
from tests.support.redrive import put_into_quarantine
from tests.support.system import PLAYER, System, up
from tests.system.browser import PHONE, WIDE, Browser, chromium

HOSTILE = [text.replace("\0", "") for text in (*HTML.values(), *TEXTS.values())]


@pytest.fixture(scope="session")
def one_chromium() -> Iterator[Browser]:
    """For all tests of this file."""
    with temporary_folder("levelq-chromium-") as folder, chromium(folder) as browser:
        yield browser


@pytest.fixture
def browser(one_chromium: Browser) -> Browser:
    """The same, as new."""
    one_chromium.clean()
    return one_chromium


@pytest.fixture
def site(system: System, settings: Settings) -> Iterator[Site]:
    """The console, without logins: every browser of this machine is an operator."""
    with served(settings) as made:
        yield made


# Every page


def pages(found: Scene) -> dict[str, list[str]]:
    """What is opened of each route."""
    lane = "user=42&specialization=PLAYER"
    return {
        "/": ["/", "/?window=24h"],
        "/partitions/{name}": ["/partitions/PLAYER:1:0", "/partitions/COACH:1:0", "/partitions/INTERNSHIP:1:0"],
        "/users/{id}": [f"/users/{user}" for user in (42, 7, 8, 9, 10, 1000, 999)],
        "/commands/{uuid}": [f"/commands/{found.waiting}", f"/commands/{found.rejected}"],
        "/search": [f"/search?q={found.waiting}", "/search?q=7"],
        "/rejected": ["/rejected", "/rejected?user=5", "/rejected?reason=%3Cb%3E"],
        "/rejected/{command_id}": [f"/rejected/{found.rejected}"],
        "/quarantined": ["/quarantined", "/quarantined?reason=x"],
        "/quarantined/{number}": [f"/quarantined/{found.quarantined + n}" for n in range(len(RAW))],
        "/drift": ["/drift"],
        "/workers": ["/workers"],
        "/audit": ["/audit", "/audit?action=pause"],
        "/settings": ["/settings"],
        "/runbook": ["/runbook"],
        "/login": ["/login"],
        "/act/audit-drift": ["/act/audit-drift"],
        "/act/cancel": [f"/act/cancel?{lane}", f"/act/cancel?{lane}&id={found.waiting}"],
        "/act/discard-quarantined": ["/act/discard-quarantined?all=yes"],
        "/act/discard-rejected": ["/act/discard-rejected?all=yes", f"/act/discard-rejected?id={found.rejected}"],
        "/act/forget": ["/act/forget?user=42"],
        "/act/pause": ["/act/pause?specialization=COACH", "/act/pause?user=42"],
        "/act/purge": ["/act/purge?specialization=PLAYER"],
        "/act/rebuild": ["/act/rebuild?specialization=PLAYER"],
        "/act/resume": ["/act/resume?specialization=COACH", "/act/resume?specialization=PLAYER"],
        "/act/retry-quarantined": ["/act/retry-quarantined?all=yes"],
        "/act/retry-rejected": ["/act/retry-rejected?all=yes", f"/act/retry-rejected?id={found.rejected}"],
        "/act/sync-all": ["/act/sync-all"],
        "/act/sync": ["/act/sync?user=7&specialization=PLAYER", f"/act/sync?{lane}"],
    }


def look(browser: Browser, site: Site, address: str) -> list[str]:
    """What is wrong with a page: wide and light, wide and dark, on a phone; and what its log says."""
    browser.visit(f"{site.url}{address}")
    found = [*browser.faults()]
    browser.scheme("dark")
    found += [f"dark: {fault}" for fault in browser.faults()]
    browser.size(PHONE)
    found += [f"phone: {fault}" for fault in browser.faults()]
    browser.scheme("light")
    browser.size(WIDE)
    return [f"{address}: {fault}" for fault in found + browser.complaints(site.url)]


def test_every_page_is_readable_light_dark_and_on_a_phone(system: System, site: Site, browser: Browser) -> None:
    with scene(system, HOSTILE, list(RAW.values())) as found:
        opened = pages(found)
        gettable = {
            route.path for route in site.app.routes if isinstance(route, Route) and "GET" in (route.methods or ())
        }
        assert gettable == set(opened)
        faults = [
            fault for addresses in opened.values() for address in addresses for fault in look(browser, site, address)
        ]
    assert not faults, "\n".join(faults)


def test_every_page_of_an_empty_system_is_readable(site: Site, browser: Browser) -> None:
    addresses = ("/", "/partitions/PLAYER", "/users/1", "/rejected", "/quarantined", "/drift", "/workers", "/audit")
    assert [fault for address in addresses for fault in look(browser, site, address)] == []


def test_pages_that_refuse_are_readable_and_say_what_was_expected(site: Site, browser: Browser) -> None:
    for address, code in (("/users/0", 400), ("/search?q=%3Cb%3E", 400), ("/rejected/7", 404), ("/nowhere", 404)):
        found = look(browser, site, address)
        assert len(found) == 1 and f"status of {code}" in found[0], found


def test_focus_is_seen_wherever_tab_leads(system: System, site: Site, browser: Browser) -> None:
    with scene(system, [f"match {n}" for n in range(30)], [b"rubbish"]):
        for size in (WIDE, PHONE):
            browser.size(size)
            for address in ("/", "/rejected", "/users/42"):
                browser.visit(f"{site.url}{address}")
                names = [stop["name"] for stop in browser.stops()]
                assert names[0] == "Skip to the page" and names[-1] == "Keys"


def test_without_script_an_act_is_done_all_the_same(system: System, site: Site, browser: Browser) -> None:
    browser.emulate("setScriptExecutionDisabled", value=True)
    try:
        browser.driver.get(f"{site.url}{of_player(system)}")
        assert "Times in UTC" in browser.text("#zone")
        browser.tab_to("main .button", "Pause")
        browser.press(Keys.ENTER)
        browser.wait(lambda: browser.text(".confirm"), "the confirmation")
        browser.tab_to(".confirm button")
        browser.press(Keys.ENTER)
        browser.wait(lambda: "PLAYER: paused until" in browser.text(".notice"), "the notice")
    finally:
        browser.emulate("setScriptExecutionDisabled", value=False)
    assert len(status(system.settings).pauses) == 1


SPOILT = {
    "contrast 1.": "p.style.color = 'rgb(240, 240, 240)'",
    "px wide in 360": "p.style.width = '2000px'",
    "h4 after h1": "p.innerHTML = '<h4>x</h4>'",
    "an empty h2": "p.innerHTML = '<h2></h2>'",
    "without a name: <button>": "p.innerHTML = '<button></button>'",
    "id twice: main": "p.id = 'main'",
    "evil.example": "fetch('https://evil.example/').catch(() => 0)",
    "inline script": "p.append(Object.assign(document.createElement('script'), { textContent: '1' }))",
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_wrong_with_a_page_is_noticed(fault: str, site: Site, browser: Browser) -> None:
    browser.visit(f"{site.url}/workers")
    browser.size(PHONE)
    assert browser.faults() + browser.complaints(site.url) == []
    browser.script(
        f"const p = document.createElement('p'); p.append('x'); document.querySelector('h1').after(p); {SPOILT[fault]}"
    )
    assert fault in " ".join(browser.faults() + browser.complaints(site.url))


# Every act


class Act(NamedTuple):
    """An act as an operator does it.

    `given`: makes what it is for; the page where its button is. `button`: the name of the button there. `said`: in the
    notice. `done`: whether it has its effect. `audited`: its name in the audit. `marks`: how the name of the box begins
    that is marked first. `typed`: what into which field of the confirmation.
    """

    given: Callable[[System], str]
    button: str
    said: str
    done: Callable[[System], bool]
    audited: str
    marks: str = ""
    typed: tuple[tuple[str, str], ...] = ()


def of_rejected(system: System) -> str:
    rejected_with(system, ["first", "second"])
    return "/rejected"


def of_quarantined(system: System) -> str:
    put_into_quarantine(system, 1, b"1764460800000" + encode(up(1)))
    put_into_quarantine(system, 2, b"rubbish")
    return "/quarantined"


def of_one_user(system: System) -> str:
    system.push(up(7, 1200), up(8, 5))
    system.drain()
    system.push(up(7), up(7), up(8))
    return "/users/7"


def of_player(system: System) -> str:
    system.push(up(1), up(2), up(3, specialization="COACH"))
    return "/partitions/PLAYER"


def of_paused(system: System) -> str:
    pause(system, "PLAYER")
    return "/"


def of_drifted(system: System) -> str:
    of_one_user(system)
    drift(system)
    return "/drift"


def of_broken_key(system: System) -> str:
    system.redis.hset(KEYS.of(PLAYER, "paused"), "9", "no pause")
    return of_player(system)


def pause(system: System, name: str) -> None:
    editor = LaneEditor(system.redis, system.settings)
    Pausing(None, editor, system.waker, system.settings).pause(PauseScope([name]), reason="ticket 4")


def settled(system: System) -> list[str | None]:
    return [
        row[0] for row in system.rows("SELECT settled FROM levelq_ledger WHERE status = 'rejected' ORDER BY reason")
    ]


def audits_again(system: System) -> bool:
    """Whether a worker does, though the last audit was a moment ago."""
    auditor = Auditor(system.settings)
    try:
        return auditor.audit() is not None
    finally:
        auditor.stop()


def entries(system: System) -> int:
    return len(system.rows("SELECT id FROM levelq_quarantine"))


def levels(system: System) -> set[int]:
    both = "SELECT current_level FROM specialization_progress WHERE student_id = 7 UNION ALL "
    return {row[0] for row in system.rows(f"{both}SELECT current_level FROM user_licenses WHERE user_id = 7")}


ACTS = {
    "pause": Act(
        of_player, "Pause", "PLAYER: paused until",
        lambda system: [pause.reason for pause in status(system.settings).pauses] == ["ticket 4"], "pause",
        typed=(("How long", "1 h"), ("Why", "ticket 4")),
    ),
    "resume": Act(
        of_paused, "Resume", "PLAYER: resumed.", lambda system: not pauses(system.redis, KEYS, PLAYER), "resume"
    ),
    "rebuild": Act(
        of_broken_key, "Rebuild", "1 key removed",
        lambda system: not system.redis.exists(KEYS.of(PLAYER, "paused")), "rebuild",
    ),
    "purge": Act(
        of_player, "Purge", "PLAYER: 2 commands cancelled.", lambda system: system.status().waiting == 0, "purge",
        typed=(("To confirm, type PLAYER", "PLAYER"),),
    ),
    "cancel": Act(
        of_one_user, "Cancel what waits", "user 7 PLAYER: 2 commands cancelled.",
        lambda system: system.status().waiting == 1, "cancel",
    ),
    "sync": Act(
        of_drifted, "Repair", "both levels are 2.", lambda system: levels(system) == {2}, "sync",
        typed=(("Copy the level of", "the progress"),),
    ),
    "sync-all": Act(
        of_drifted, "Repair all", "1 pair repaired.", lambda system: len(levels(system)) == 1, "sync"
    ),
    "forget": Act(
        of_one_user, "Forget this user", "user 7 is forgotten: 2 commands cancelled",
        lambda system: levels(system) == set(), "forget", typed=(("To confirm, type 7", "7"),),
    ),
    "audit-drift": Act(
        of_drifted, "Audit now", "audit", audits_again, "drift audit"
    ),
    "retry-rejected": Act(
        of_rejected, "Retry all", "2 rejected commands sent once more",
        lambda system: settled(system) == ["retried"] * 2, "rejected retry",
    ),
    "discard-rejected": Act(
        of_rejected, "Discard marked", "1 rejected command discarded",
        lambda system: settled(system) == [None, "discarded"], "rejected discard",
        marks="Mark the command of user 1001",
    ),
    "retry-quarantined": Act(
        of_quarantined, "Retry all", "1 quarantined entry sent once more",
        lambda system: entries(system) == 1, "quarantine retry",
    ),
    "discard-quarantined": Act(
        of_quarantined, "Discard marked", "1 quarantined entry discarded", lambda system: entries(system) == 1,
        "quarantine discard", marks="Mark entry 2",
    ),
}  # fmt: skip


def test_every_act_of_the_console_is_tested_here(site: Site) -> None:
    routes = [route.path for route in site.app.routes if isinstance(route, Route)]
    assert {path.removeprefix("/act/") for path in routes if path.startswith("/act/")} == set(ACTS)


@pytest.mark.parametrize("name", ACTS)
def test_act_is_done_by_keyboard_alone(name: str, system: System, site: Site, browser: Browser) -> None:
    act = ACTS[name]
    browser.visit(f"{site.url}{act.given(system)}")
    if act.marks:
        browser.tab_to(f'[aria-label^="{act.marks}"]')
        browser.press(Keys.SPACE)
    browser.tab_to("main :is(a.button, button)", act.button)
    browser.follow()
    assert urlsplit(browser.driver.current_url).path == f"/act/{name}"
    assert act.audited not in [row[0] for row in system.rows("SELECT action FROM levelq_audit")]
    for label, value in act.typed:
        browser.tab_to(".confirm :is(input, select)", label)
        browser.press(value)
    browser.tab_to(".confirm button")
    browser.follow()
    assert act.said in browser.text(".notice")
    assert act.done(system)
    assert system.rows("SELECT action FROM levelq_audit") == [(act.audited,)]
    assert browser.complaints(site.url) == []


# What stays open


def test_open_page_follows_what_changes_and_leaves_the_reader_alone(
    system: System, site: Site, browser: Browser
) -> None:
    with scene(system, ["ticket 4"], []):
        browser.visit(f"{site.url}/")
        browser.script("window.isTheSame = true")
        browser.tab_to("summary")
        browser.press(Keys.ENTER)
        browser.tab_to("a[href='/partitions/PLAYER%3A1%3A0']")
        system.push(*(up(77) for _ in range(1000)))
        waiting = sum(partition.waiting for partition in status(system.settings).partitions)
        browser.wait(lambda: f"Waiting {waiting:,}" in browser.text(".figures"), "the new commands")
        browser.wait(lambda: "77" in browser.text("[data-refresh*=lanes]"), "the longest lane")
        pause(system, "PLAYER")
        browser.wait(lambda: "paused" in browser.text("tr:has(a[href='/partitions/PLAYER%3A1%3A0'])"), "the pause")
        browser.script("document.querySelector('[data-refresh*=charts]').dispatchEvent(new Event('refresh'))")
        assert browser.focus()["name"] == "PLAYER:1:0"
        assert browser.script("return window.isTheSame && document.querySelector('details').open")
    assert browser.complaints(site.url) == []


def test_page_says_that_the_console_does_not_answer_until_it_does(settings: Settings, browser: Browser) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(Console(settings), listen("127.0.0.1", port), "127.0.0.1"):
        browser.visit(f"{url}/")
        assert browser.text("#away") == "" and browser.complaints(url) == []
    browser.wait(lambda: "No answer since" in browser.text("#away"), "the line that says so")
    with serving(Console(settings), listen("127.0.0.1", port), "127.0.0.1"):
        browser.wait(lambda: browser.text("#away") == "", "the line to go")
    assert all("ERR_CONNECTION_REFUSED" in line for line in browser.complaints(url))


def test_keys_lead_to_pages_and_to_the_search(site: Site, browser: Browser) -> None:
    browser.visit(f"{site.url}/workers")
    browser.press("?")
    assert "search" in browser.text("dialog[open]")
    browser.press(Keys.ESCAPE)
    assert browser.script("return document.querySelector('dialog[open]')") is None
    keys = browser.script(
        "return [...document.querySelectorAll('nav [data-key]')].map((a) => [a.dataset.key, a.pathname])"
    )
    assert len(keys) == 8
    for pressed, path in keys:
        first, second = pressed.split()
        browser.press(first)
        browser.follow(second)
        assert browser.path == path
    browser.press("/")
    assert browser.focus()["name"] == "User id or command id"
    browser.press("g", "o", Keys.ESCAPE)
    assert browser.focus()["tag"] == "body" and browser.path == "/runbook"
    browser.press("/", "7")
    browser.follow()
    assert browser.path == "/users/7"
    assert browser.complaints(site.url) == []


def test_theme_that_was_chosen_stays(site: Site, browser: Browser) -> None:
    browser.visit(f"{site.url}/workers")
    grounds = [ground(browser)]
    for _ in range(2):
        browser.tab_to("#theme")
        browser.press(Keys.ENTER)
        browser.visit(f"{site.url}/drift")
        grounds.append(ground(browser))
    assert browser.text("#theme") == "Theme: dark"
    assert grounds[0] == grounds[1] != grounds[2]
    browser.tab_to("#theme")
    browser.press(Keys.ENTER)
    browser.scheme("dark")
    assert (browser.text("#theme"), ground(browser)) == ("Theme: system", grounds[2])


def ground(browser: Browser) -> str:
    return str(browser.script("return getComputedStyle(document.body).backgroundColor"))


def test_times_are_in_the_zone_of_the_browser(system: System, site: Site, browser: Browser) -> None:
    system.push(up(7))
    system.drain()
    pause(system, "PLAYER")
    browser.emulate("setTimezoneOverride", timezoneId="Asia/Kolkata")
    browser.visit(f"{site.url}/users/7")
    assert "(UTC+05:30); UTC on hover" in browser.text("#zone")
    zone = timezone(timedelta(hours=5, minutes=30))
    times = browser.script(
        "return [...document.querySelectorAll('main time')].map((t) => [t.dateTime, t.title, t.innerText])"
    )
    assert times
    for moment, title, shown in times:
        at = datetime.fromisoformat(moment)
        assert title == f"{at:%Y-%m-%d %H:%M:%S} UTC"
        assert re.fullmatch(rf"({at.astimezone(zone):%Y-%m-%d} )?{at.astimezone(zone):%H:%M:%S}", shown)


# Logins


def test_token_lets_in_and_the_logout_and_a_removed_line_let_out(
    system: System, settings: Settings, browser: Browser, tmp_path: Path
) -> None:
    token, line = new_login("ann", "operator")
    append(tmp_path / "logins", line)
    with ExitStack() as stack:
        site = stack.enter_context(served(settings.model_copy(update={"console_logins": tmp_path / "logins"})))
        browser.visit(f"{site.url}/workers")
        assert browser.path == "/login?next=%2Fworkers"
        browser.press("wrong")  # its field has the focus
        browser.follow()
        assert "This token is not known." in browser.text("[role=alert]")
        refusals = browser.complaints(site.url)
        assert len(refusals) == 1 and "status of 403" in refusals[0]
        enter(browser, token, "/workers")
        assert "ann, operator" in browser.text(".who")
        browser.tab_to(".who button", "Log out")
        browser.follow()
        assert browser.path == "/login"
        browser.visit(f"{site.url}/workers")
        enter(browser, token, "/workers")
        (tmp_path / "logins").write_text("# nobody\n")
        browser.wait(lambda: browser.path == "/login?next=%2Fworkers", "the open page to ask for a login")
        assert [line for line in browser.complaints(site.url) if "status of 401" not in line] == []


def enter(browser: Browser, token: str, path: str) -> None:
    browser.press(token)
    browser.follow()
    assert browser.path == path
