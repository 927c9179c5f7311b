"""The console as a browser uses it: the application on a port of loopback, forms filled in, pages searched for markup.

`act` does what an operator does; `assert_escaped` is what holds for every page that shows text of others.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn
from starlette.applications import Starlette

from levelq.console.access.login import Role
from levelq.console.access.login_file import append, new_login
from levelq.console.application import application
from levelq.console.connections import Connection
from levelq.console.console import Console
from levelq_core import Settings
from levelq_core.untrusted_text import printable
from tests.support.hostile import assert_safe

LOCAL_LINKS = ("/", "#", "?")


class Site(NamedTuple):
    """A console that is served. `client` follows no redirect and keeps cookies, as one browser does."""

    url: str
    console: Console
    client: httpx.Client
    app: Starlette

    def browser(self, address: str = "127.0.0.1", **headers: str) -> httpx.Client:
        """Another browser, which comes from this address of loopback and sends these headers (Sec_Fetch_Site="...")."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return _browser(self.url, address, given)


def _browser(url: str, address: str = "127.0.0.1", headers: Mapping[str, str] | None = None) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=address, verify=False)  # nothing is TLS here, and a context is slow
    return httpx.Client(base_url=url, headers=headers, transport=transport, timeout=30)


class _Server(uvicorn.Server):
    """Says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextmanager
def served(settings: Settings, *, read_only: bool = False) -> Iterator[Site]:
    """Serve the application in a thread of this process, on a free port."""
    console = Console(settings, read_only=read_only)
    app = application(console)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=Connection, log_config=None, server_header=False, proxy_headers=False,
        access_log=False, ws="none", timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert server.up.wait(30) and server.started
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with _browser(url) as client:
            yield Site(url, console, client, app)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Element(NamedTuple):
    name: str
    attributes: Mapping[str, str]


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.text = ""
        self.scripts = ""
        self._open: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        self._open = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts += data
        else:
            self.text += data

    def named(self, *names: str) -> list[Element]:
        return [element for element in self.elements if element.name in names]

    def form(self) -> dict[str, str]:
        """What the page's form with method="post" would send, as it is filled in; for `select`, the option selected.

        Of a page with several (the logout in its header is one), the last.
        """
        fields: dict[str, str] = {}
        select = ""
        for name, attributes in self.elements:
            if name == "form":
                fields = {} if attributes.get("method") == "post" else fields
            elif name in ("input", "textarea") and "name" in attributes:
                fields[attributes["name"]] = attributes.get("value", "")
            elif name == "select":
                select = attributes["name"]
            elif name == "option" and (select not in fields or "selected" in attributes):
                fields[select] = attributes["value"]
        return fields


def act(client: httpx.Client, url: str, **fields: str) -> httpx.Response:
    """Open an act's confirmation, fill in these fields, and press its button; the page that is shown then."""
    confirmation = client.get(url)
    assert confirmation.status_code == 200, confirmation.text
    return client.post(url, data=Page(confirmation.text).form() | fields, follow_redirects=True)


def login(client: httpx.Client, token: str) -> httpx.Response:
    """Log in with a token of the token file; the answer to the form."""
    return client.post("/login", data=Page(client.get("/login").text).form() | {"token": token})


def add_login(logins: Path, name: str = "anna", role: Role = "operator") -> str:
    """The token of a new login in this file."""
    token, line = new_login(name, role)
    append(logins, line)
    return token


def assert_escaped(html: str, *hostile: str | bytes, shown: bool = True) -> None:
    """No text of others is markup in this page, nothing in it acts, and nothing loads from elsewhere.

    `hostile`: the texts that the page was given. `shown`: each is to be found in it, as text or in an attribute, at
    least its first 20 characters; a page that shows none of them would show nothing about escaping.
    """
    page = Page(html)
    assert_safe(html.replace("\t", ""))
    assert "<!--" not in html and page.scripts == ""
    for name, attributes in page.elements:
        assert name not in ("style", "iframe", "object", "embed", "base", "meta") or _known(name, attributes), name
        assert [a for a in attributes if a.startswith("on") or a in ("style", "srcdoc")] == [], (name, attributes)
        assert [a for a in attributes if not a.replace("-", "").replace(":", "").isalnum()] == [], (name, attributes)
        for link in ("href", "src", "action", "formaction", "data-refresh", "xlink:href"):
            target = attributes.get(link, "/")
            assert target.startswith(LOCAL_LINKS) and not target.startswith(("//", "/\\")), (name, link, target)
        assert name != "script" or attributes["src"].startswith("/static/"), attributes
        assert name != "img" or attributes["src"].startswith("/static/"), attributes
    read = page.text + "\n" + "\n".join(value for _, attributes in page.elements for value in attributes.values())
    for text in hostile:
        assert not shown or printable(text)[:20] in read, printable(text)


def _known(name: str, attributes: Mapping[str, str]) -> bool:
    return name == "meta" and (
        attributes.keys() == {"charset"} or attributes.get("name") in ("viewport", "color-scheme")
    )
