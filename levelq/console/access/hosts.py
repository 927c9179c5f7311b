"""By which names browsers may reach a console, and whether a request was made by one of its own pages.

A page of another site can have its name point to 127.0.0.1 (DNS rebinding) and then read this console as if it were
its own. Its requests still carry that name in their Host header, so other names than ours are refused.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from levelq_core.redis_client.encryption import is_loopback

SETTING = "LEVELQ_CONSOLE_URL"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_READS = ("GET", "HEAD", "OPTIONS")


def check_host(request: Request, url: str | None) -> None:
    """Raise HTTPException 400 unless the request is for a name of loopback or the host of LEVELQ_CONSOLE_URL."""
    given = request.headers.getlist("host")
    if len(given) != 1 or not (_on_loopback(given[0]) or (url is not None and given[0].lower() == host_of(url))):
        expected = "a name of loopback, such as localhost" if url is None else f"{host_of(url)} or a name of loopback"
        raise HTTPException(400, f"the Host header: expected {expected} ({SETTING} names another)")


def check_origin(request: Request, url: str | None) -> None:
    """Raise HTTPException 403 if a browser says that a page of another site made this request, unless it is a link.

    Such a page could not read the answer, but have us work, and without logins no missing cookie stops it.
    """
    fetched = request.headers.getlist("sec-fetch-site") or ["same-origin"]
    if request.method in _READS:
        if not {"cross-site", "same-site"}.isdisjoint(fetched) and request.headers.get("sec-fetch-dest") != "document":
            raise HTTPException(403, "the Sec-Fetch-Site header: a page of another site asked for this; open it here")
        return
    host = request.headers["host"].lower()
    ours = {None, url, f"http://{host}" if _on_loopback(host) else url}
    if len(request.headers.getlist("origin")) > 1 or request.headers.get("origin") not in ours:
        raise HTTPException(
            403, "the Origin header: this form is not of a page of this console; open it here and retry"
        )
    if fetched != ["same-origin"]:
        raise HTTPException(403, "the Sec-Fetch-Site header: expected same-origin; open the page here and retry")


def host_of(url: str) -> str:
    """The Host header of requests for this URL."""
    scheme, _, host = url.partition("://")
    return host.removesuffix(_DEFAULT_PORTS[scheme])


def local_path(given: str) -> str | None:
    """The path and query, if that is what it is; None if a browser could take it for an address elsewhere."""
    elsewhere = not given.startswith("/") or given.startswith("//") or "\\" in given
    return None if elsewhere or not given.isascii() or not given.isprintable() else given


def _on_loopback(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        return bool(parts.hostname) and parts.netloc == host and "@" not in host and is_loopback(parts.hostname or "")
    except ValueError:
        return False
