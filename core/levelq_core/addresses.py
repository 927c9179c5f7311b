"""Redis URLs: one server, the primary that Sentinels name, or the servers of a Cluster.

    redis://user:password@host:6379/0                     rediss:// with TLS, unix:// a socket
    redis+sentinel://user:password@s1:26379,s2:26379/name/0?sentinel_password=...
    redis+cluster://user:password@h1:6379,h2:6379         any of its servers; the others are asked for

The last two are levelq's own: redis-py has none. Each with rediss+ for TLS; queries are redis-py's.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SERVER_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
_PORTS = {"cluster": 6379, "sentinel": 26379}
_OF_SENTINELS = "sentinel_"  # how options begin that are for the Sentinels themselves


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Place(NamedTuple):
    """What a URL with several servers says."""

    kind: Literal["cluster", "sentinel"]
    scheme: str
    user: str
    addresses: list[Address]
    path: list[str]
    query: dict[str, str]

    @classmethod
    def read(cls, url: str) -> Self | None:
        """None for the URL of one server. Raises ValueError, with nothing in it that may be a password."""
        try:
            parts = urlsplit(url)
        except ValueError:  # its words quote the whole
            raise ValueError("cannot be read as a URL") from None
        kind: Any = parts.scheme.partition("+")[2]
        if kind not in _PORTS:
            return None
        user, at, hosts = parts.netloc.rpartition("@")
        addresses = [_address(host, _PORTS[kind]) for host in hosts.split(",")]
        path = [unquote(step) for step in parts.path.split("/") if step]
        place = cls(kind, parts.scheme.partition("+")[0], user + at, addresses, path, dict(parse_qsl(parts.query)))
        place._check()
        return place

    def _check(self) -> None:
        if self.kind == "cluster" and self.path not in ([], ["0"]):
            raise ValueError("expected no path behind the servers: a cluster has database 0 only")
        if self.kind == "sentinel" and not (self.path and len(self.path) < 3 and all(map(str.isdigit, self.path[1:]))):
            raise ValueError("expected /name of the primary behind the Sentinels, and perhaps /number of a database")

    @property
    def service(self) -> str:
        """What the Sentinels call the primary."""
        return self.path[0]

    def url_of(self, address: Address) -> str:
        """One server of a cluster, for redis-py."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.scheme}://{self.user}{address}/0{query}"

    @property
    def url_of_primary(self) -> str:
        """The primary, for redis-py, but for its address."""
        query = {name: value for name, value in self.query.items() if not name.startswith(_OF_SENTINELS)}
        database = self.path[1] if len(self.path) > 1 else "0"
        return f"{self.scheme}://{self.user}primary/{database}{f'?{urlencode(query)}' if query else ''}"

    @property
    def for_sentinels(self) -> dict[str, str]:
        """redis-py's options for the connections to the Sentinels."""
        own = {name: value for name, value in self.query.items() if name.startswith(_OF_SENTINELS)}
        return {name.removeprefix(_OF_SENTINELS): value for name, value in own.items()}


def _address(text: str, port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname:
            return Address(parts.hostname, parts.port or port)
    except ValueError:
        pass
    raise ValueError("expected host:port,host:port,... as servers")
