"""Rejected commands and quarantined entries in the console: the lists, retry and discard."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import httpx
import pytest

from levelq import LevelUp
from levelq.console.access.login_file import new_login
from levelq_core import Settings
from levelq_core.domain.codec import encode
from levelq_core.domain.commands import retry_id
from tests.support.console import Page, Site, act, assert_escaped, login, served
from tests.support.hostile import HTML, RAW, TEXTS
from tests.support.redrive import put_into_quarantine, reject, stamped
from tests.support.system import System, up

ACTOR = "ann as postgres"  # the login, and the role at the database


@pytest.fixture
def site(system: System, settings: Settings, logins: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    """A console with two logins, in which ann, an operator, is logged in."""
    with served(settings.model_copy(update={"console_logins": tmp_path / "logins"})) as made:
        login(made.client, logins["ann"])
        yield made


@pytest.fixture
def reader(site: Site, logins: dict[str, str]) -> Iterator[httpx.Client]:
    """The browser of bob, a reader."""
    with site.browser() as client:
        login(client, logins["bob"])
        yield client


@pytest.fixture
def logins(tmp_path: Path) -> dict[str, str]:
    """The tokens of ann and bob, whose file is `logins`."""
    made = {"ann": new_login("ann", "operator"), "bob": new_login("bob", "reader")}
    (tmp_path / "logins").write_text("".join(f"{line}\n" for _, line in made.values()))
    return {name: token for name, (token, _) in made.items()}


def audited(system: System) -> list[tuple[Any, ...]]:
    return system.rows("SELECT actor, action, target FROM levelq_audit ORDER BY id")


def settled(system: System) -> dict[UUID, str | None]:
    return dict(system.rows("SELECT command_id, settled FROM levelq_ledger WHERE status = 'rejected'"))


def entries(system: System) -> list[int]:
    return [row[0] for row in system.rows("SELECT id FROM levelq_quarantine ORDER BY id")]


def boxes(page: httpx.Response) -> list[str]:
    """The ids of the rows that can be marked."""
    return [e.attributes["value"] for e in Page(page.text).named("input") if e.attributes.get("type") == "checkbox"]


def link(page: httpx.Response, **attributes: str) -> str | None:
    """Where the first link with these attributes leads."""
    found = (e for e in Page(page.text).named("a") if attributes.items() <= e.attributes.items())
    return next((element.attributes["href"] for element in found), None)


def test_what_the_filter_matches_is_retried_as_it_was_shown(system: System, client: httpx.Client) -> None:
    chosen = reject(system, up(1, 5), up(2, 5))
    others = reject(system, up(3, theory_hours=1), catalog=None)
    address = f"/act/retry-rejected?{urlencode({'all': 'yes', 'reason': 'EXPECTED one of'})}"
    page = client.get(address)
    assert "Retry 2 rejected commands" in page.text and "the rules accept it now" in page.text
    assert "levelq rejected retry --reason 'EXPECTED one of'" in Page(page.text).text
    assert set(settled(system).values()) == {None} and audited(system) == [] and system.status().waiting == 0
    others += reject(system, up(4, 5))  # after it was shown
    done = client.post(address, data=Page(page.text).form(), follow_redirects=True)
    assert done.url.path == "/rejected" and done.url.params["reason"] == "EXPECTED one of"
    assert "2 rejected commands sent once more" in done.text
    assert settled(system) == dict.fromkeys(chosen, "retried") | dict.fromkeys(others)
    assert audited(system) == [(ACTOR, "rejected retry", "2 users")]
    system.drain()
    decided = dict(system.rows("SELECT command_id, status FROM levelq_ledger"))
    assert [decided[retry_id(command_id)] for command_id in chosen] == ["applied", "applied"]


def test_two_operators_at_once_settle_each_command_once(system: System, site: Site, client: httpx.Client) -> None:
    ids = reject(system, *(up(user) for user in range(1, 31)))
    forms = [
        (path, Page(client.get(path).text).form())
        for path in (f"/act/{verb}-rejected?all=yes" for verb in ("retry", "discard", "retry"))
    ]
    cookies = dict(client.cookies)
    start = Barrier(len(forms))

    def press(path: str, form: dict[str, str]) -> tuple[int, str]:
        with site.browser() as browser:
            browser.cookies.update(cookies)
            start.wait(30)
            answer = browser.post(path, data=form)
            return answer.status_code, answer.text

    with ThreadPoolExecutor() as operators:
        answers = list(operators.map(lambda one: press(*one), forms))
    assert {status for status, _ in answers} <= {303, 409}, answers
    system.drain()
    sent = {command_id for (command_id,) in system.rows("SELECT command_id FROM levelq_ledger")}
    how = settled(system)
    assert set(how) == set(ids) and None not in how.values()
    assert {id_ for id_ in ids if retry_id(id_) in sent} == {id_ for id_ in ids if how[id_] == "retried"}
    assert system.total_xp() == list(how.values()).count("retried")


def test_marked_commands_are_discarded_and_no_others(system: System, client: httpx.Client) -> None:
    ids = reject(system, *(up(user) for user in (1, 2, 3)))
    marked = boxes(client.get("/rejected?user=1")) + boxes(client.get("/rejected?user=3"))
    assert marked == [str(ids[0]), str(ids[2])]
    done = act(client, f"/act/discard-rejected?{urlencode([('id', id_) for id_ in marked])}")
    assert "2 rejected commands discarded" in done.text and boxes(done) == [str(ids[1])]
    assert settled(system) == {ids[0]: "discarded", ids[1]: None, ids[2]: "discarded"}
    assert audited(system) == [(ACTOR, "rejected discard", "2 users")]
    nothing = client.get("/act/discard-rejected?user=2")
    assert nothing.status_code == 400 and "id: expected" in nothing.text
    again = client.get(f"/act/discard-rejected?id={ids[0]}")
    assert "settled before" in again.text and "is left to discard" in again.text


def test_post_without_a_confirmation_acts_on_nothing(system: System, client: httpx.Client) -> None:
    (one,) = reject(system, up(1))
    form = Page(client.get("/act/discard-rejected?all=yes").text).form()
    for kept in ({}, {"kept": ""}):
        answer = client.post(
            "/act/discard-rejected?all=yes", data={k: v for k, v in form.items() if k != "kept"} | kept
        )
        assert answer.status_code == 400 and "kept: expected" in answer.text
    assert settled(system) == {one: None} and audited(system) == []


def test_command_that_would_overtake_is_sent_only_by_force(system: System, client: httpx.Client) -> None:
    (one,) = reject(system, up(1))
    system.producer.send(up(1))
    system.drain()
    shown = client.get(f"/rejected/{one}")
    assert "refused" in shown.text and "a newer command of its lane was applied" in shown.text
    address = f"/act/retry-rejected?id={one}"
    page = client.get(address)
    assert "None of them can be sent" in page.text
    assert client.post(address, data=Page(page.text).form()).status_code == 400  # it keeps no id
    forced = next(e.attributes["href"] for e in Page(page.text).named("a") if "force" in e.attributes["href"])
    assert "1 rejected command sent once more" in act(client, forced).text
    assert system.rows("SELECT detail->>'force' FROM levelq_audit") == [("true",)]
    assert "retried as" in client.get(f"/rejected/{one}").text


def test_entries_are_shown_retried_and_discarded(system: System, client: httpx.Client) -> None:
    command = up(1, 5)
    put_into_quarantine(system, 1, stamped(encode(command)))
    put_into_quarantine(system, 2, b"\x00\xffrubbish", "not a levelq entry")
    put_into_quarantine(system, 3, b"x" * 5_000)
    assert boxes(client.get("/quarantined?reason=LEVELQ")) == ["2"]
    shown = client.get("/quarantined/2").text
    assert "00 ff 72 75 62 62 69 73 68" in shown and sha256(b"\x00\xffrubbish").hexdigest() in shown
    assert "4,096 of 5,000 kept" in client.get("/quarantined/3").text
    assert "1 quarantined entry sent once more" in act(client, "/act/retry-quarantined?all=yes").text
    system.drain()
    assert system.rows("SELECT command_id, status FROM levelq_ledger") == [(command.command_id, "applied")]
    address = "/act/discard-quarantined?all=yes&user=2"
    assert "deleted for good" in client.get(address).text and entries(system) == [2, 3]
    assert "1 quarantined entry discarded" in act(client, address).text and entries(system) == [3]
    assert audited(system) == [
        (ACTOR, "quarantine retry", "user 1 PLAYER"), (ACTOR, "quarantine discard", "user 2 PLAYER"),
    ]  # fmt: skip
    assert client.get("/quarantined/2").status_code == 404


def test_every_row_is_on_one_page(system: System, client: httpx.Client) -> None:
    ids = reject(system, *(up(user) for user in range(1, 121)))
    seen: list[str] = []
    address: str | None = "/rejected?error=validation_error"
    while address is not None:
        page = client.get(address)
        seen += boxes(page)
        address = link(page, rel="next")
        assert address is None or len(seen) in (50, 100)
    assert seen == [str(command_id) for command_id in reversed(ids)]


def test_causes_are_counted_and_each_leads_to_its_rows(system: System, client: httpx.Client) -> None:
    reject(system, *(up(user) for user in range(1, 61)))
    reject(system, *(up(user, theory_hours=user) for user in (1, 2)), catalog=None)
    page = client.get("/rejected")
    rows = page.text.split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]
    assert [next(n for n in ("60", "2") if f">{n}</td>" in row) for row in rows] == ["60", "2"]
    causes = [e.attributes["href"] for e in Page(page.text).named("a") if "reason=" in e.attributes["href"]]
    assert [len(boxes(client.get(href))) for href in causes] == [50, 2]


def test_wrong_field_is_named(client: httpx.Client) -> None:
    wrong = [
        f"/{page}?{field}"
        for page in ("rejected", "quarantined", "audit")
        for field in ("since=yesterday", "until=2999-01-01", "since=1h&until=2h", "user=0", "user=ann", "before=-1")
    ]
    wrong += ["/rejected?error=conflict", "/rejected?reason=%00", f"/audit?action={'x' * 201}"]
    wrong += ["/act/retry-rejected?id=7", "/act/discard-quarantined?id=x", "/act/discard-rejected?error=x&all=yes"]
    for url in wrong:
        answer = client.get(url)
        field = url.partition("?")[2].partition("=")[0]
        assert answer.status_code == 400 and f"{field}: expected" in Page(answer.text).text, url
        assert_escaped(answer.text)


def test_row_that_is_not_there_is_not_found(client: httpx.Client) -> None:
    for url in ("/rejected/7", f"/rejected/{UUID(int=7)}", "/quarantined/0", "/quarantined/7"):
        assert client.get(url).status_code == 404, url


def test_reader_sees_all_and_can_do_nothing(system: System, reader: httpx.Client) -> None:
    (one,) = reject(system, up(1))
    put_into_quarantine(system, 2, b"rubbish")
    for url in ("/rejected", f"/rejected/{one}", "/quarantined", "/quarantined/1", "/drift", "/audit", "/settings"):
        page = reader.get(url)
        assert page.status_code == 200 and "/act/" not in page.text, url
    for url in (f"retry-rejected?id={one}", "discard-rejected?all=yes", "retry-quarantined?id=1",
                "discard-quarantined?id=1", "audit-drift"):  # fmt: skip
        assert reader.get(f"/act/{url}").status_code == 403
        form = Page(reader.get("/rejected").text).form()  # the logout in the header, with a token of this session
        assert reader.post(f"/act/{url}", data=form | {"kept": "1"}).status_code == 403
    assert settled(system) == {one: None} and entries(system) == [1] and audited(system) == []


def test_text_of_others_is_escaped(system: System, client: httpx.Client) -> None:
    texts = [text.replace("\0", "") for text in (*TEXTS.values(), *HTML.values())]
    commands = [LevelUp(user_id=n, specialization="PLAYER", reason=text) for n, text in enumerate(texts, 1)]
    ids = reject(system, *commands)
    system.sql("UPDATE levelq_ledger SET message = reason")
    for n, text in enumerate(texts, 1):
        put_into_quarantine(system, n, text.encode(), text)
    for raw in RAW.values():
        put_into_quarantine(system, None, raw)
    for page in ("rejected", "quarantined"):
        assert_escaped(client.get(f"/{page}").text, *texts)
        for verb in ("retry", "discard"):
            assert_escaped(client.get(f"/act/{verb}-{page}?all=yes").text, *(texts if verb == "discard" else ()))
    for command_id, text in zip(ids, texts, strict=True):
        assert_escaped(client.get(f"/rejected/{command_id}").text, text)
    for number in entries(system):
        assert_escaped(client.get(f"/quarantined/{number}").text, *(texts[number - 1 : number]))
    for text in HTML.values():
        address = f"/rejected?{urlencode({'reason': text})}"
        assert_escaped(client.get(address).text, text)
        assert_escaped(client.get(f"/act/discard-rejected?all=yes&{urlencode({'reason': text})}").text, text)
