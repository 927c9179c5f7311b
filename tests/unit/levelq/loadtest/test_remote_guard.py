import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from redis import Redis

from levelq.loadtest import remote_guard
from levelq.loadtest.remote_guard import hosts_of, is_local, refuse_remote
from levelq_core import ConfigurationError, Settings
from levelq_core.redis_client.cluster_clients import Cluster

OWN = "192.0.2.7"  # an address that only exists in documentation
NAMES = {"here": ["127.0.0.1", OWN], "both": ["127.0.0.1", "192.0.2.9"], "away": ["192.0.2.9"]}


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface with one address, and a few names."""
    card = SimpleNamespace(family=socket.AF_INET, address=OWN)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [card]})
    ask = socket.getaddrinfo

    def answer(host: str, port: None) -> list[tuple[object, ...]]:
        if host in NAMES:
            return [(socket.AF_INET, 0, 0, "", (address, 0)) for address in NAMES[host]]
        return [*ask(host, port, flags=socket.AI_NUMERICHOST)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize("host", ["/run/x.sock", "@abstract", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", OWN, "here"])
def test_local_host(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["192.0.2.8", "2001:db8::1", "away", "both", "nowhere", "", "service=prod"])
def test_remote_host(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize(
    ("redis_url", "database_url", "redis", "database"),
    [
        ("redis://a:7/0", "postgresql://u:p@b:5/app", ["a"], ["b"]),
        ("rediss://u:p@a/0", "postgresql://b,c/app", ["a"], ["b", "c"]),
        ("redis:///0", "postgresql:///app?host=b", ["localhost"], ["b"]),
        ("redis:///0?host=a", "postgresql://b/app?hostaddr=192.0.2.9", ["a"], ["192.0.2.9"]),
        ("unix:///run/a.sock", "postgresql://u@/app?host=/run", ["/run/a.sock"], ["/run"]),
        ("unix:///run/a.sock", "postgresql+psycopg://u@/app?host=b:1&host=c:2", ["/run/a.sock"], ["b", "c"]),
        ("unix:///run/a.sock", "postgresql://u@/app?service=prod", ["/run/a.sock"], ["service=prod"]),
        ("unix:///run/a.sock", "postgresql:///app", ["/run/a.sock"], ["/"]),
        ("redis+cluster://u:p@a:1,b/0", "postgresql:///app", ["a", "b"], ["/"]),
        ("rediss+sentinel://u:p@a:1,b/main/0", "postgresql:///app", ["a", "b"], ["/"]),
    ],
)
def test_hosts_of_urls(redis_url: str, database_url: str, redis: list[str], database: list[str]) -> None:
    settings = Settings.load(redis_url=redis_url, rq_url="redis://q", database_url=database_url)
    named = {"LEVELQ_REDIS_URL": redis, "LEVELQ_RQ_URL": ["q"], "LEVELQ_DATABASE_URL": database}
    assert hosts_of(settings) == named


def test_host_in_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "away")
    settings = Settings.load(redis_url="redis://127.0.0.1", database_url="postgresql:///app")
    with pytest.raises(ConfigurationError, match=r"LEVELQ_DATABASE_URL: .* got 'away': .* needs --allow-remote"):
        refuse_remote(settings)


@pytest.mark.parametrize("name", ["redis_url", "rq_url", "database_url", "listen_url"])
def test_each_setting_is_checked(name: str) -> None:
    near = {"redis_url": "redis://here/0", "database_url": "postgresql://u:secret@here/app"}
    refuse_remote(Settings.load(**near))
    scheme = "redis" if name in ("redis_url", "rq_url") else "postgresql"
    settings = Settings.load(**near | {name: f"{scheme}://u:secret@both/0"})
    with pytest.raises(ConfigurationError, match=f"^LEVELQ_{name.upper()}: expected a Unix socket") as refused:
        refuse_remote(settings)
    assert "secret" not in str(refused.value)


def remote_cluster() -> Any:
    """A client of a cluster with one remote server."""
    cluster = Mock(spec=Cluster)
    cluster.servers.return_value = [Redis(host="127.0.0.1"), Redis(host="192.0.2.9")]
    return cluster


def remote_primary() -> SimpleNamespace:
    """A client of Sentinels that name a remote primary."""
    pool = SimpleNamespace(get_master_address=lambda: ("192.0.2.9", 6379))
    return SimpleNamespace(connection_pool=pool, close=Mock())


@pytest.mark.parametrize(
    ("url", "connected"),
    [("redis+cluster://127.0.0.1:1", remote_cluster), ("redis+sentinel://127.0.0.1/main", remote_primary)],
    ids=["cluster", "sentinels"],
)
def test_servers_that_local_ones_name_must_be_local(
    monkeypatch: pytest.MonkeyPatch, url: str, connected: Callable[[], Any]
) -> None:
    client = connected()
    monkeypatch.setattr(remote_guard, "connect", lambda url, seconds: client)
    settings = Settings.load(redis_url=url, rq_url="redis://127.0.0.1", database_url="postgresql://here/app")
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_REDIS_URL: .* got '192\.0\.2\.9'"):
        refuse_remote(settings)
    client.close.assert_called_once_with()
