"""Who gets into the console, and what they may do there: logins, sessions, roles, forms, limits."""

import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from levelq.console.access.guard import MOST_AT_ONCE, Guard
from levelq.console.acts.act import Asked, Field, Plan, act
from levelq_core import Settings
from levelq_core.operations.audit import account
from tests.support import console
from tests.support.console import Page, Site, add_login, assert_escaped, login, served
from tests.support.fixtures.command_line import NOWHERE
from tests.support.hostile import HTML, TEXTS

Serve = Callable[..., Site]
PAGE = "/act/probe"
EVIL = "https://evil.example"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve consoles with these settings, whose clock stands still, and with an act that notes who performs it.

    What is tested here needs no other server, so they have none.
    """
    with ExitStack() as stack:

        def start(read_only: bool = False, **given: Any) -> Site:
            settings = Settings.load(redis_url=f"redis://{NOWHERE}/0", **given)
            site = stack.enter_context(served(settings, read_only=read_only))
            site.app.state.guard = Guard(settings, lambda: 0.0)
            performed: list[tuple[str, str]] = []

            def perform(asked: Asked) -> str:
                performed.append((asked.actor, asked.values["reason"]))
                return f"Done: {asked.values['reason']}"

            def plan(asked: Asked) -> Plan:
                return Plan(
                    title="Probe", happens=("It is noted.",), command="levelq probe", button="Probe",
                    back=asked.values.get("back", PAGE), fields=(Field("reason", "Reason"),),
                )  # fmt: skip

            site.app.router.routes.append(act("probe", plan, perform))
            site.app.state.performed = performed
            return site

        yield start


def session_of(answer: httpx.Response) -> str:
    """The cookie of a login, with its name."""
    assert answer.status_code == 303, answer.text
    return answer.headers["set-cookie"].partition(";")[0]


# On loopback, without logins


def test_on_loopback_every_browser_acts_by_the_account_of_the_process(serve: Serve) -> None:
    site = serve()
    page = console.act(site.client, f"{PAGE}?x=1", reason="a test")
    assert site.app.state.performed == [(account(), "a test")]
    assert page.url.raw_path == PAGE.encode() and "Done: a test" in page.text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_page_for_another_host_is_refused_so_that_a_rebound_name_reads_nothing(serve: Serve, host: str) -> None:
    site = serve()
    for path in (PAGE, "/login", PAGE, "/static/console.css"):
        refused = site.client.get(path, headers={"Host": host})
        assert refused.status_code == 400
        assert "the Host header: expected a name of loopback" in refused.text
        assert "nav" not in {element.name for element in Page(refused.text).elements}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "X-Real-IP", "Via"])
def test_proxy_does_not_open_a_console_without_logins_to_others(serve: Serve, header: str) -> None:
    refused = serve().client.get(PAGE, headers={header: "203.0.113.7"})
    assert refused.status_code == 403 and "LEVELQ_CONSOLE_LOGINS" in refused.text


# Forms


def test_every_post_of_the_application_is_refused_without_its_token(serve: Serve) -> None:
    site = serve()
    other = serve()  # a token that another console signed
    foreign = Page(other.client.get(PAGE).text).form()["csrf"]
    notice = site.app.state.guard.signatures.sign("notice", account(), "")
    posts = [
        route.path_format.replace("{", "").replace("}", "")
        for route in site.app.routes
        if isinstance(route, Route) and "POST" in (route.methods or ())
    ]
    assert {"/login", "/logout", PAGE} <= set(posts)
    for path in posts:
        for token in (None, "", "x", foreign, notice, f"{foreign[:-1]}x"):
            refused = site.client.post(path, data={"reason": "x"} | ({} if token is None else {"csrf": token}))
            assert refused.status_code == 403, (path, token)
            assert "this form is too old" in refused.text
            site.app.state.guard.acts._full_until.clear()
    assert site.app.state.performed == []


@pytest.mark.parametrize(
    "headers", [{"Origin": EVIL}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
)
def test_form_that_another_site_sends_is_refused_even_with_a_token(serve: Serve, headers: dict[str, str]) -> None:
    site = serve()
    form = Page(site.client.get(PAGE).text).form() | {"reason": "x"}
    assert site.client.post(PAGE, data=form, headers=headers).status_code == 403
    assert site.app.state.performed == []
    assert site.client.post(PAGE, data=form, headers={"Origin": site.url}).status_code == 303


@pytest.mark.parametrize("site_of", ["cross-site", "same-site"])
def test_page_of_another_site_cannot_have_the_console_work(serve: Serve, site_of: str) -> None:
    """A dry run costs the servers work, and without logins no missing cookie stops it."""
    client = serve().client
    for kind in ("image", "script", "iframe", "empty"):
        refused = client.get(PAGE, headers={"Sec-Fetch-Site": site_of, "Sec-Fetch-Dest": kind})
        assert refused.status_code == 403 and "a page of another site" in refused.text
    assert client.get(PAGE, headers={"Sec-Fetch-Site": site_of, "Sec-Fetch-Dest": "document"}).status_code == 200


def test_form_that_is_none_is_refused(serve: Serve) -> None:
    client = serve().client
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post(PAGE, json={}).status_code == 415
    assert client.post(PAGE, content=b"a=1&" * 20_000, headers=kind).status_code == 413
    assert client.post(PAGE, content=b"a=1&" * 300 + b"b=1", headers=kind).status_code == 400
    assert client.post(PAGE, content=b"a=\xff", headers=kind).status_code == 400
    assert client.post("/", headers=kind).status_code == 405


def test_token_of_one_login_or_session_is_of_no_use_to_another(serve: Serve, logins: Path) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    with site.browser() as first, site.browser() as second:
        login(first, token)
        login(second, token)
        form = Page(first.get(PAGE).text).form() | {"reason": "x"}
        assert second.post(PAGE, data=form).status_code == 403
        assert first.post(PAGE, data=form).status_code == 303


def test_act_that_would_lead_elsewhere_afterwards_is_refused(serve: Serve) -> None:
    client = serve().client
    for back in (EVIL, "//evil.example", "javascript:alert(1)"):
        assert client.get(PAGE, params={"back": back}).status_code == 400


# Notices


def test_notice_is_shown_once_and_escaped(serve: Serve) -> None:
    site = serve()
    for text in [*HTML.values(), *TEXTS.values()]:
        shown = console.act(site.client, PAGE, reason=text)
        assert_escaped(shown.text, text)
        assert "Done: " not in site.client.get(PAGE).text
        site.app.state.guard.acts._full_until.clear()


def test_notice_that_was_not_signed_here_for_this_login_is_not_shown(serve: Serve) -> None:
    site, other = serve(), serve()
    other.client.post(PAGE, data=Page(other.client.get(PAGE).text).form() | {"reason": "forged"})
    (cookie,) = other.client.cookies.jar
    assert cookie.value is not None and cookie.name.endswith("-notice")
    name = site.app.state.guard.cookie_name(Request({"type": "http", "server": ("", httpx.URL(site.url).port)}))
    mine = site.app.state.guard.signatures.sign("notice", "someone else", "", "forged")
    plain = site.app.state.guard.signatures.sign("form", account(), "")
    for value in (cookie.value, mine, plain, "forged", "666f72676564"):
        page = site.client.get(PAGE, headers={"Cookie": f"{name}-notice={value}"})
        assert page.status_code == 200 and "forged" not in page.text and 'class="notice"' not in page.text


# Logins by token


def test_token_lets_in_and_a_logout_is_final(serve: Serve, logins: Path) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    away = site.client.get("/act/probe?a=1&b=2")
    assert (away.status_code, away.headers["location"]) == (303, "/login?next=%2Fact%2Fprobe%3Fa%3D1%26b%3D2")
    assert site.client.get("/?part=problems_part").status_code == 401
    assert site.client.post(PAGE, data={"reason": "x"}).status_code == 401
    page = site.client.get(away.headers["location"])
    assert Page(page.text).named("nav") == []
    entered = site.client.post("/login", data=Page(page.text).form() | {"token": token})
    assert entered.headers["location"] == "/act/probe?a=1&b=2"
    cookie = session_of(entered)
    assert re.search("; HttpOnly; Max-Age=43200; Path=/; SameSite=strict$", entered.headers["set-cookie"])
    console.act(site.client, PAGE, reason="x")
    assert site.app.state.performed == [("anna", "x")]
    assert "anna, operator" in Page(site.client.get(PAGE).text).text

    left = site.client.post("/logout", data=Page(site.client.get(PAGE).text).form())
    assert left.headers["location"] == "/login" and "Max-Age=0" in left.headers["set-cookie"]
    assert site.client.get(PAGE).status_code == 303
    assert site.client.get(PAGE, headers={"Cookie": cookie}).status_code == 303


def test_wrong_token_and_chosen_cookie_do_not_let_in(serve: Serve, logins: Path) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    for wrong in ("", "x", token[:-1], "\x00", "é" * 50):
        answer = login(site.client, wrong)
        assert answer.status_code == 403 and "This token is not known." in answer.text
        assert "set-cookie" not in answer.headers
    with site.browser() as browser:
        name = session_of(login(browser, token)).partition("=")[0]
    site.client.cookies.set(name, "chosen")
    assert site.client.get(PAGE).status_code == 303
    site.app.state.guard._failures._full_until.clear()
    assert session_of(login(site.client, token)) != f"{name}=chosen"
    assert site.client.get(PAGE, headers={"Cookie": f"{name}=chosen"}).status_code == 303


@pytest.mark.parametrize("wanted", [EVIL, "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\r\nX: y"])
def test_login_leads_to_pages_of_the_console_alone(serve: Serve, logins: Path, wanted: str) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    page = site.client.get("/login", params={"next": wanted})
    assert_escaped(page.text)
    form = Page(page.text).form() | {"token": token, "next": wanted}
    assert site.client.post("/login", data=form).headers["location"] == "/"


def test_link_on_another_site_leads_on_by_a_page_of_ours(serve: Serve, logins: Path) -> None:
    """The browser keeps our cookie back from such a request, though there may be a session."""
    site = serve(console_logins=logins)
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    page = site.client.get("/rejected?user=1", headers=link, follow_redirects=True)
    (refresh,) = [one for _, one in Page(page.text).named("meta") if one.get("http-equiv") == "refresh"]
    assert refresh["content"] == "0; url=/rejected?user=1"


def test_login_that_is_removed_or_changed_ends_its_sessions_at_once(serve: Serve, logins: Path) -> None:
    anna, ben = add_login(logins, "anna"), add_login(logins, "ben", "reader")
    site = serve(console_logins=logins)
    with site.browser() as first, site.browser() as second:
        login(first, anna)
        login(second, ben)
        text = logins.read_text()
        logins.write_text(text.replace("ben reader", "ben operator").replace("anna", "# anna"))
        assert (first.get(PAGE).status_code, second.get(PAGE).status_code) == (303, 303)
        logins.write_text(text)
        assert (first.get(PAGE).status_code, second.get(PAGE).status_code) == (303, 303)


def test_token_file_that_breaks_lets_nobody_in_and_the_log_names_the_line(
    serve: Serve, logins: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    login(site.client, token)
    good = logins.read_text()
    logins.write_text(f"{good}mistake\n")
    for answer in (site.client.get(PAGE), site.client.get(PAGE)):
        assert answer.status_code == 503 and "mistake" not in answer.text and str(logins) not in answer.text
    (line,) = [record for record in caplog.records if getattr(record, "event", "") == "console_logins_unreadable"]
    assert "line 2: expected `name role sha256:HEX`, got 1 words" in line.getMessage()
    logins.write_text(good)
    assert site.client.get(PAGE).status_code == 200


def test_failed_logins_are_limited_by_address_and_the_limit_says_how_long(
    serve: Serve, logins: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    for _ in range(10):
        assert login(site.client, "wrong").status_code == 403
    for tried in ("wrong", token):
        refused = login(site.client, tried)
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 6
    failed = [record for record in caplog.records if getattr(record, "event", "") == "console_login_failed"]
    assert len(failed) == 10 and {record.__dict__["address"] for record in failed} == {"127.0.0.1"}
    with site.browser("127.0.0.2") as elsewhere:
        assert login(elsewhere, token).status_code == 303


def test_failed_logins_of_many_addresses_are_limited_together(serve: Serve, logins: Path) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    for number in range(10):
        with site.browser(f"127.0.1.{number}") as browser:
            form = Page(browser.get("/login").text).form() | {"token": "wrong"}
            assert {browser.post("/login", data=form).status_code for _ in range(10)} == {403}
    assert login(site.client, token).status_code == 429


# Roles


def test_reader_sees_pages_and_may_not_act(serve: Serve, logins: Path) -> None:
    token = add_login(logins, "ben", "reader")
    site = serve(console_logins=logins)
    login(site.client, token)
    csrf = Page(site.client.get(PAGE).text).form()["csrf"]
    assert site.client.get(PAGE).status_code == 403
    assert site.client.post(PAGE, data={"csrf": csrf, "reason": "x"}).status_code == 403
    assert site.app.state.performed == []


def test_read_only_console_lets_nobody_act(serve: Serve) -> None:
    site = serve(read_only=True)
    csrf = site.app.state.guard.signatures.sign("form", account(), "")
    for answer in (site.client.get(PAGE), site.client.post(PAGE, data={"csrf": csrf, "reason": "x"})):
        assert answer.status_code == 403 and "this console is read-only" in answer.text
    assert site.app.state.performed == []


def test_acts_of_one_login_are_limited(serve: Serve) -> None:
    site = serve()
    form = Page(site.client.get(PAGE).text).form() | {"reason": "x"}
    answers = [site.client.post(PAGE, data=form).status_code for _ in range(61)]
    assert answers[:60] == [303] * 60 and answers[60] == 429
    assert site.client.get(PAGE).status_code == 200


# Logins by a proxy


@pytest.fixture
def behind_proxy(serve: Serve) -> Site:
    """127.0.0.2 is the proxy; anna may act."""
    return serve(
        console_login_header="X-Forwarded-User", console_proxies="127.0.0.2, 10.0.0.0/8", console_operators="anna, é"
    )


def test_proxy_names_the_login_and_the_settings_its_role(behind_proxy: Site) -> None:
    with behind_proxy.browser("127.0.0.2", X_Forwarded_User="anna") as anna:
        console.act(anna, PAGE, reason="x")
    assert behind_proxy.app.state.performed == [("anna", "x")]
    for reader in ("ben", "Anna", "anna, ben"):
        with behind_proxy.browser("127.0.0.2", X_Forwarded_User=reader) as browser:
            assert f"{reader}, reader" in Page(browser.get(PAGE).text).text
            assert browser.get(PAGE).status_code == 403


def test_header_of_others_than_the_proxy_does_not_count(behind_proxy: Site) -> None:
    forged = {"X-Forwarded-User": "anna", "X-Forwarded-For": "127.0.0.2", "Forwarded": "for=127.0.0.2"}
    answer = behind_proxy.client.get(PAGE, headers=forged)
    assert answer.status_code == 303
    page = behind_proxy.client.get(answer.headers["location"], headers=forged)
    assert "reach it through the proxy" in page.text and "csrf" not in Page(page.text).form()


@pytest.mark.parametrize("names", [["anna", "ben"], ["anna", "anna"], [""], ["a" * 101], ["a\tb"], [b"\xff"]])
def test_proxy_header_that_is_no_name_is_refused(behind_proxy: Site, names: list[Any]) -> None:
    with behind_proxy.browser("127.0.0.2") as browser:
        answer = browser.get(PAGE, headers=[("X-Forwarded-User", name) for name in names])
        assert answer.status_code == 403 and "the X-Forwarded-User header of the proxy" in answer.text
        assert browser.get(PAGE).status_code == 303  # none at all


def test_name_of_a_login_is_escaped(behind_proxy: Site) -> None:
    for name in [text[:100] for text in HTML.values()] + ["=cmd|x", "[bold]x[/]", "%s {0}"]:
        with behind_proxy.browser("127.0.0.2", X_Forwarded_User=name) as browser:
            assert_escaped(browser.get(PAGE).text, name)


# Behind TLS


def test_cookies_are_secure_and_bound_to_the_host_where_browsers_come_by_https(serve: Serve, logins: Path) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins, console_url="https://console.example")
    with site.browser(Host="console.example") as browser:
        form = Page(browser.get("/login").text).form() | {"token": token}
        assert browser.post("/login", data=form, headers={"Origin": EVIL}).status_code == 403
        assert browser.post("/login", data=form, headers={"Origin": "http://console.example"}).status_code == 403
        answer = browser.post("/login", data=form, headers={"Origin": "https://console.example"})
        cookie = session_of(answer)
        attributes = answer.headers["set-cookie"].split("; ")
        assert cookie.startswith("__Host-levelq-")
        assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(attributes)
        assert not any(attribute.lower().startswith("domain") for attribute in attributes)
        confirm = Page(browser.get(PAGE, headers={"Cookie": cookie}).text).form() | {"reason": "x"}
        done = browser.post(PAGE, data=confirm, headers={"Cookie": cookie})
        assert done.headers["set-cookie"].startswith("__Host-levelq-") and "; Secure" in done.headers["set-cookie"]


# Load


def test_pages_that_hang_leave_room_for_logins_and_files(serve: Serve, logins: Path) -> None:
    token = add_login(logins)
    site = serve(console_logins=logins)
    entered, release = Barrier(MOST_AT_ONCE + 1), Event()

    def hang(_: Request) -> Response:
        entered.wait(30)
        release.wait(30)
        return PlainTextResponse("late")

    site.app.router.routes.append(Route("/hang", hang))
    cookie = {"Cookie": session_of(login(site.client, token))}
    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        hanging = [threads.submit(site.client.get, "/hang", headers=cookie) for _ in range(MOST_AT_ONCE)]
        try:
            entered.wait(30)
            refused = site.client.get(PAGE)
            assert refused.status_code == 503 and refused.headers["retry-after"] == "2"
            assert site.client.get("/static/console.css").status_code == 200
            with site.browser() as another:
                assert login(another, token).status_code == 303
        finally:
            release.set()
        assert {answer.result().text for answer in hanging} == {"late"}
    assert site.client.get(PAGE).status_code == 200


def test_nothing_is_logged_that_lets_in(serve: Serve, logins: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = add_login(logins)
    site = serve(console_logins=logins)
    cookie = session_of(login(site.client, token)).partition("=")[2]
    login(site.client, f"{token}x")
    site.client.get(PAGE)
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert ours
    assert not any(secret in record.getMessage() for record in ours for secret in (token, cookie))
