"""URLs with several servers."""

import pytest

from levelq_core import Settings
from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.url_options import redacted
from levelq_core.redis_client.urls import Address, RedisTarget


def read(url: str) -> RedisTarget:
    target = RedisTarget.read(url)
    assert target is not None
    return target


@pytest.mark.parametrize("url", ["redis://h", "rediss://h:1/2", "unix:///run/valkey.sock"])
def test_url_of_one_server_has_no_target(url: str) -> None:
    assert RedisTarget.read(url) is None


def test_cluster_url_is_read() -> None:
    target = read("rediss+cluster://u:p%40@a:1,[::1]:2,c?ssl_cert_reqs=none")
    assert target.addresses == [Address("a", 1), Address("::1", 2), Address("c", 6379)]
    assert target.url_of(Address("::1", 2)) == "rediss://u:p%40@[::1]:2/0?ssl_cert_reqs=none"


def test_sentinel_url_is_read() -> None:
    target = read("redis+sentinel://u:p@a,b:2/lanes/3?sentinel_username=s&sentinel_password=t&protocol=3")
    assert (target.service, target.addresses) == ("lanes", [Address("a", 26379), Address("b", 2)])
    assert target.for_sentinels == {"username": "s", "password": "t"}
    assert target.url_of_primary == "redis://u:p@primary/3?protocol=3"


@pytest.mark.parametrize("kind", ["redis", "rediss"])
def test_tls_is_used_for_the_sentinels_too(kind: str) -> None:
    client = connect(
        f"{kind}+sentinel://a:1/lanes?sentinel_password=t&ssl_cert_reqs=none"
        if kind == "rediss"
        else f"{kind}+sentinel://a:1/lanes",
        0.5,
    )
    (sentinel,) = client.connection_pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
    made = sentinel.connection_pool.make_connection()
    assert ("SSL" in type(made).__name__) is (kind == "rediss")
    client.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:s3cret@h/x?sentinel_password=s3cret",
        "rediss+sentinel://h/x?sentinel_ssl_password=s3cret",
        "rediss+cluster://:s3cret@h?ssl_password=s3cret",
        "redis://h?password=s3cret",
    ],
)
def test_redacted_url_shows_no_password(url: str) -> None:
    assert "s3cret" not in redacted(url)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
def test_url_that_cannot_be_read_is_not_quoted(scheme: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(redis_url=f"{scheme}://u:s3cret\u2100x@h:1/x", rq_url="redis://h")
    assert "s3cret" not in str(refused.value)
    assert "LEVELQ_REDIS_URL: cannot be read as a URL" in str(refused.value)
