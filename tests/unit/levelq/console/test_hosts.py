"""Which hosts are this console's, which requests are of its own pages, and which paths are its own."""

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from levelq.console.access.hosts import check_host, check_origin, local_path

URL = "https://console.example"


def asked(method: str = "GET", **headers: str | list[str]) -> Request:
    pairs = [
        (name.replace("_", "-").lower().encode(), one.encode())
        for name, value in headers.items()
        for one in ([value] if isinstance(value, str) else value)
    ]
    return Request({"type": "http", "method": method, "headers": pairs, "path": "/"})


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8420", "127.0.0.1:8420", "127.9.9.9", "[::1]:8420", "LOCALHOST"]
)
def test_names_of_loopback_are_ours(host: str) -> None:
    check_host(asked(host=host), None)
    check_host(asked(host=host), URL)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8420", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0",
        "", "[::1", "localhost@evil.example", "evil.example#localhost", "localhost/x", "localhost?", "/tmp",
        ["localhost", "localhost"], ["localhost", "evil.example"], [],
    ],
)  # fmt: skip
def test_other_names_are_refused(host: str | list[str]) -> None:
    for url in (None, URL):
        with pytest.raises(HTTPException) as raised:
            check_host(asked(host=host), url)
        assert raised.value.status_code == 400


def test_host_of_the_url_is_ours_as_browsers_write_it() -> None:
    check_host(asked(host="console.example"), URL)
    check_host(asked(host="Console.Example"), "https://console.example:443")
    check_host(asked(host="console.example:8443"), "https://console.example:8443")
    for host in ("console.example:8443", "console.example."):
        with pytest.raises(HTTPException):
            check_host(asked(host=host), URL)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:8420"},
        {"host": "localhost:8420", "origin": "http://localhost:8420", "sec_fetch_site": "same-origin"},
        {"host": "console.example", "origin": URL},
    ],
)
def test_form_of_our_own_page_is_accepted(headers: dict[str, str]) -> None:
    check_origin(asked("POST", **headers), URL)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9000"},
        {"origin": "https://localhost:8420"},
        {"origin": "http://localhost:8420.evil.example"},
        {"origin": ["http://localhost:8420", "http://localhost:8420"]},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": ["same-origin", "cross-site"]},
        {"origin": "http://localhost:8420", "sec_fetch_site": "cross-site"},
    ],
)
def test_form_of_another_site_is_refused(headers: dict[str, str | list[str]]) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        with pytest.raises(HTTPException) as raised:
            check_origin(asked(method, host="localhost:8420", **headers), None)
        assert raised.value.status_code == 403
    check_origin(asked("GET", host="localhost:8420", sec_fetch_dest="document", **headers), None)


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/", True), ("/users/42?x=//y", True), ("", False), ("users", False), ("//evil.example", False),
        ("/\\evil.example", False), ("https://evil.example", False), ("javascript:alert(1)", False),
        ("/\t/evil.example", False), ("/a\r\nSet-Cookie: x", False), ("/\u2028", False), (" /", False),
    ],
)  # fmt: skip
def test_path_that_leads_elsewhere_is_none_of_ours(path: str, ours: bool) -> None:
    assert local_path(path) == (path if ours else None)
