"""Redis URLs: one server, the primary that Sentinels name, or the servers of a Cluster.

    redis://user:password@host:6379/0                     rediss:// with TLS, unix:// a socket
    redis+sentinel://user:password@s1:26379,s2:26379/name/0?sentinel_password=...
    redis+cluster://user:password@h1:6379,h2:6379         some of its servers, which name the others

redis-py does not know the last two; rediss+ is the same with TLS. For the options see url_options.py.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from .url_options import MISREAD, read_options

SERVER_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_PORTS = {"cluster": 6379, "sentinel": 26379}
_OF_SENTINELS = "sentinel_"  # prefix of the options for connections to the Sentinels


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisTarget(NamedTuple):
    """The parts of a URL with several servers."""

    kind: Literal["cluster", "sentinel"]
    scheme: str
    user: str
    addresses: list[Address]
    path: list[str]
    query: dict[str, str]

    @classmethod
    def read(cls, url: str) -> Self | None:
        """Read a URL; None if it is the URL of one server. Raises ValueError, which shows no password."""
        parts = split_url(url)
        kind: Any = parts.scheme.partition("+")[2]
        if kind not in _PORTS:
            return None
        user, at, hosts = parts.netloc.rpartition("@")
        if "@" in user:
            raise ValueError(f"expected user:password@ once, before all servers, {MISREAD}")
        addresses = [_address(host, _PORTS[kind]) for host in hosts.split(",")]
        path = [unquote(step) for step in parts.path.split("/") if step]
        target = cls(kind, parts.scheme.partition("+")[0], user + at, addresses, path, dict(parse_qsl(parts.query)))
        target._check()
        return target

    def _check(self) -> None:
        if self.kind == "cluster" and self.path not in ([], ["0"]):
            raise ValueError("expected no path behind the servers: a cluster has database 0 only")
        if self.kind == "sentinel" and not (self.path and len(self.path) < 3 and all(map(str.isdigit, self.path[1:]))):
            raise ValueError("expected /name of the primary behind the Sentinels, and perhaps /number of a database")

    @property
    def service(self) -> str:
        """The name of the primary at the Sentinels."""
        return self.path[0]

    def url_of(self, address: Address) -> str:
        """The URL of one server of a cluster, for redis-py."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.scheme}://{self.user}{address}/0{query}"

    @property
    def url_of_primary(self) -> str:
        """The URL of the primary for redis-py, without its address."""
        query = {name: value for name, value in self.query.items() if not name.startswith(_OF_SENTINELS)}
        database = self.path[1] if len(self.path) > 1 else "0"
        return f"{self.scheme}://{self.user}primary/{database}{f'?{urlencode(query)}' if query else ''}"

    @property
    def for_sentinels(self) -> dict[str, Any]:
        """The options of redis-py for connections to the Sentinels."""
        given = read_options(f"{self.scheme}+sentinel", urlencode(self.query))
        return {name.removeprefix(_OF_SENTINELS): it for name, it in given.items() if name.startswith(_OF_SENTINELS)}


def check_url(url: str) -> None:
    """Raise ValueError for a URL that redis-py misreads or cannot connect with; no password is shown."""
    parts = split_url(url)
    if RedisTarget.read(url) is None:
        _check_server(parts)
    read_options(parts.scheme, parts.query)


def url_and_options(url: str) -> tuple[str, dict[str, Any]]:
    """The URL of one server without its query, and the options of the query, for redis-py. Raises as check_url.

    As in redis-py, an option does not override the URL before it, except `db`, which overrides the path.
    """
    parts = split_url(url)
    options = read_options(parts.scheme, parts.query)
    path = "" if "db" in options and parts.scheme != "unix" else parts.path
    return f"{parts.scheme}://{parts.netloc}{path}", options


def split_url(url: str) -> SplitResult:
    """The parts of a URL. Raises ValueError if a character of a password ends the host too early."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its message quotes the whole URL
        raise ValueError(f"cannot be read as a URL, {MISREAD}") from None
    # The path of a socket may contain an @, unless the text before it may be part of a password.
    path = "" if parts.scheme == "unix" and (not parts.netloc or "@" in parts.netloc) else parts.path
    if "#" in url or "@" in path + parts.query or re.search(r"^\s|[\r\n\t]|\s$", url):
        raise ValueError(f"cannot be read; expected {_form(parts.scheme)}, {MISREAD}")
    return parts


def _form(scheme: str) -> str:
    if scheme == "unix":
        return "unix://user:password@/path/of/the/socket"
    if "+" in scheme:
        return f"{scheme}://user:password@host:port,host:port"
    return f"{scheme or 'redis'}://user:password@host:port/0"


def _check_server(parts: SplitResult) -> None:
    """The host, port and database of one server."""
    address = parts.netloc.rpartition("@")[2]
    if parts.scheme == "unix":
        good = parts.path.startswith("/") and address in ("", "localhost")
    else:  # without an address it is localhost
        good = bool((not address or _split_address(address)) and re.fullmatch(r"/?|/[0-9]{1,9}", parts.path))
    if not good:
        raise ValueError(f"cannot be read; expected {_form(parts.scheme)}, {MISREAD}")


def _address(text: str, port: int) -> Address:
    found = _split_address(text)
    if found is None:
        raise ValueError("expected host:port,host:port,... as servers, each port 1 to 65535")
    return Address(found[0], found[1] or port)


def _split_address(text: str) -> tuple[str, int | None] | None:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return None if not host or port == 0 or parts.path or parts.query else (host, port)
