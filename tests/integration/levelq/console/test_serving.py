"""The console as it is served: the headers of every answer, and what is shown when something fails."""

import logging
import socket
import time
from contextlib import suppress

import httpx
import pytest
from sqlalchemy.exc import OperationalError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.access.headers import HEADERS
from levelq.console.connections import Connection
from tests.support.console import Page, Site, assert_escaped
from tests.support.fixtures.command_line import SECRET
from tests.support.hostile import HTML


def fails(site: Site, error: Exception) -> None:
    """Add /fails, which raises this."""

    def endpoint(_: Request) -> Response:
        raise error

    site.app.router.routes.insert(0, Route("/fails", endpoint))


def test_the_overview_is_served(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert Page(page.text).named("h1")
    assert_escaped(page.text)


def test_every_answer_has_the_headers(site: Site, client: httpx.Client) -> None:
    fails(site, RuntimeError())
    page = client.get("/")
    files = [one["href"] for _, one in Page(page.text).named("link")]
    files += [one["src"] for _, one in Page(page.text).named("script")]
    assert len(files) == 4
    answers = {
        200: [page, client.get("/?part=figures_part"), client.head("/"), *map(client.get, files)],
        303: [client.get("/login")],
        400: [
            client.get("/", headers={"Host": "evil.example"}),
            client.get("/?part=main"),
            client.get("/audit?part=x"),
        ],
        403: [client.post("/login", data={"x": "y"}), client.get("/", headers={"Forwarded": "x"})],
        404: [client.get("/absent"), client.get("/static/absent.css"), client.get("/static/../console.py")],
        405: [client.delete("/"), client.put("/login"), client.options("/"), client.post("/static/console.css")],
        500: [client.get("/fails")],
    }
    for status, of_status in answers.items():
        for answer in of_status:
            assert answer.status_code == status, (answer.request.url, answer.text)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
            assert "server" not in answer.headers and "x-powered-by" not in answer.headers
            kept = "public, max-age=31536000, immutable" if "?v=" in str(answer.request.url) else "no-store"
            assert answer.headers["cache-control"] == kept, answer.request.url
    assert client.get("/static/console.css").headers["cache-control"] == "no-cache"


def test_policy_lets_nothing_run_or_load_but_our_own_files() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'" and policy.pop("base-uri") == policy.pop("frame-ancestors") == "'none'"
    assert set(policy) == {f"{name}-src" for name in ("script", "style", "img", "connect")} | {"form-action"}
    assert set(policy.values()) == {"'self'"}


def test_bug_is_a_page_without_traceback_or_secret_and_a_line_in_the_log(
    site: Site, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    fails(site, RuntimeError(f"postgresql://app:{SECRET}@db"))
    page = client.get(f"/fails?token={SECRET}")
    assert page.status_code == 500 and Page(page.text).named("nav")
    assert_escaped(page.text)
    for text in (SECRET, "RuntimeError", "Traceback", ".py"):
        assert text not in page.text
    (record,) = [record for record in caplog.records if record.name.startswith(("levelq", "uvicorn"))]
    assert (record.__dict__["event"], record.levelno) == ("console_failed", logging.ERROR)
    assert record.getMessage() == "console: GET /fails failed" and record.exc_info is not None


def test_server_that_is_away_is_named_without_a_traceback(
    site: Site, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    fails(site, OperationalError(f"SELECT '{SECRET}'", {}, Exception(f"connection refused{HTML['element']}")))
    page = client.get("/fails")
    assert page.status_code == 503
    assert Page(page.text).text.count("LEVELQ_DATABASE_URL: ") == 1
    assert_escaped(page.text)
    (record,) = [record for record in caplog.records if record.name.startswith(("levelq", "uvicorn"))]
    assert record.__dict__["event"] == "console_unavailable" and record.exc_info is None
    assert SECRET not in page.text + record.getMessage()


@pytest.mark.parametrize("path", HTML.values())
def test_path_that_is_none_is_refused_and_escaped(client: httpx.Client, path: str) -> None:
    page = client.get("/" + path.lstrip("/").replace("#", "%23").replace("?", "%3F"))
    assert page.status_code == 404
    assert_escaped(page.text)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nHost: loc", b"POST /logout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\nx"],
    ids=["silent", "half a head", "half a body that nobody reads"],
)
def test_connection_without_a_request_ends(site: Site, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes one of the console's connections, and needs no login."""
    monkeypatch.setattr(Connection, "silent_seconds", 0.5)
    url = httpx.URL(site.url)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as connection:
        connection.sendall(sent)
        ended = time.monotonic() + 10
        with suppress(ConnectionError):
            while connection.recv(65_536):
                connection.sendall(b"x")  # a byte now and then is no request
                assert time.monotonic() < ended


def test_address_with_a_slash_at_its_end_leads_to_no_other_scheme(client: httpx.Client) -> None:
    assert client.get("/workers/").status_code == 404


def test_request_that_is_no_http_does_not_end_the_server(client: httpx.Client) -> None:
    for method in ("TRACE", "CONNECT", "X" * 50):
        assert client.request(method, "/").status_code in (400, 404, 405)
    assert client.get("/", headers={"X": "x" * 70_000}).status_code in (400, 431)
    assert client.get("/", headers={"Upgrade": "websocket", "Connection": "Upgrade"}).status_code in (200, 400)
    assert client.get("/").status_code == 200
