"""URLs that cannot work are refused when the settings are built: one line, the setting, no part of a password."""

import traceback
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

from levelq import AsyncProducer, ConfigurationError, InvalidCommand, Outbox, Producer, Settings
from levelq_core.database.engine import engine_for, target_of
from levelq_core.database.urls import check_database_urls
from levelq_core.redis_client.pool import connect, connect_async
from levelq_core.redis_client.urls import RedisTarget, url_and_options

SECRET = "s3cret"
ESCAPED = "%23 %2F %3F %40"
OPENERS: list[Callable[..., object]] = [Producer.from_url, AsyncProducer.from_url]


def refusal(call: Callable[..., object], *args: object, **given: object) -> str:
    """The one line of a ConfigurationError, whose traceback shows nothing secret."""
    with pytest.raises(ConfigurationError) as caught:
        call(*args, **given)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown and SECRET[:3] not in str(caught.value), shown
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("opened", OPENERS)
@pytest.mark.parametrize("character", "#/?[")
@pytest.mark.parametrize(
    "form",
    [
        "redis://ann:{}@host:6379/0",
        "rediss://:{}@host/0",
        "unix://:{}@/run/valkey.sock",
        "redis+sentinel://ann:{}@s1:26379,s2:26379/lanes/0",
        "redis+cluster://ann:{}@h1:6379,h2:6379",
    ],
)
def test_unescaped_password_is_refused_with_advice_to_escape_it(
    opened: Callable[..., object], character: str, form: str
) -> None:
    message = refusal(opened, form.format(f"{SECRET}{character}{SECRET}"), rq_url="redis://h")
    assert message.startswith("LEVELQ_REDIS_URL: cannot be read")
    assert ESCAPED in message


@pytest.mark.parametrize("name", ["rq_url", "redis_url", "database_url", "listen_url"])
@pytest.mark.parametrize("character", "#/?")
def test_setting_with_an_unescaped_password_is_named(name: str, character: str) -> None:
    scheme = "postgresql" if name in ("database_url", "listen_url") else "redis"
    given = {"database_url": "postgresql://h/d", name: f"{scheme}://ann:{SECRET}{character}x@host/0"}
    message = refusal(lambda: Producer(Settings.load(**given)))
    assert message.startswith(f"LEVELQ_{name.upper()}: cannot be read")
    assert ESCAPED in message


def test_escaped_password_is_unescaped() -> None:
    for url in ("redis://u:a%23%2F%3F%40b@h/0", "redis+sentinel://u:a%23%2F%3F%40b@h/lanes"):
        client: Any = connect(Settings.load(redis_url=url).redis_url, 1)
        assert client.connection_pool.make_connection().password == "a#/?@b"
        client.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"redis://:{SECRET}@host:x/0", "cannot be read; expected redis://user:password@host:port/0"),
        (f"redis://:{SECRET}@host:65536/0", "cannot be read; expected redis://user:password@host:port/0"),
        (f"redis://:{SECRET}@host:0/0", "cannot be read; expected redis://user:password@host:port/0"),
        (f"redis://:{SECRET}@:6379/0", "cannot be read; expected redis://user:password@host:port/0"),
        ("redis://host/none", "cannot be read; expected redis://user:password@host:port/0"),
        ("redis://host/1/2", "cannot be read; expected redis://user:password@host:port/0"),
        ("redis://host/0\n", "cannot be read; expected redis://user:password@host:port/0"),
        ("redis://host/0?db=many", "db: expected a whole number of at least 0, got 'many'"),
        (f"redis://host/0?unheard={SECRET}", "cannot be read; expected one of these options: client_name, db, "),
        (f"redis://host/0?{SECRET}!=1", "cannot be read; expected one of these options: client_name, db, "),
        ("redis://host/0?retry=3", "; got 'retry'"),
        ("redis://host/0?timeout=3", "; got 'timeout'"),
        ("redis://host/0?health_check_interval=abc", "expected a whole number of at least 0, got 'abc'"),
        ("redis://host/0?max_connections=0", "max_connections: expected a whole number of at least 1, got '0'"),
        ("redis://host/0?protocol=4", "protocol: expected 2 to 3, got '4'"),
        ("redis://host/0?socket_timeout=inf", "socket_timeout: expected seconds above 0, got 'inf'"),
        ("redis://host/0?socket_connect_timeout=0", "socket_connect_timeout: expected seconds above 0, got '0'"),
        ("redis://host/0?socket_keepalive=maybe", "socket_keepalive: expected yes or no, got 'maybe'"),
        ("redis://host/0?ssl_cert_reqs=none", "expected rediss:// for an option of TLS; got 'ssl_cert_reqs'"),
        ("rediss://host/0?ssl_cert_reqs=nonsense", "ssl_cert_reqs: expected none or optional or required, got"),
        ("rediss://host/0?ssl_check_hostname=x", "ssl_check_hostname: expected yes or no, got 'x'"),
        ("unix://", "cannot be read; expected unix://user:password@/path/of/the/socket"),
        ("unix://run/valkey.sock", "cannot be read; expected unix://user:password@/path/of/the/socket"),
        ("unix:///run/valkey.sock?socket_keepalive=yes", "; got 'socket_keepalive'"),
        ("redis+cluster://h1:6379,,h2:6379", "expected host:port,host:port,... as servers"),
        ("redis+cluster://h1:6379,h2:99999", "expected host:port,host:port,... as servers"),
        (f"redis+cluster://a:{SECRET}@h1,b:{SECRET}@h2", "expected user:password@ once, before all servers"),
        (f"redis+sentinel://a:{SECRET}@h1,b:{SECRET}@h2/lanes", "expected user:password@ once, before all servers"),
        ("redis+sentinel://h1/lanes/x", "expected /name of the primary behind the Sentinels"),
        ("redis+sentinel://h1/lanes?sentinel_db=1", "; got 'sentinel_db'"),
        ("redis+sentinel://h1/lanes?host=h2", "; got 'host'"),
        ("redis+sentinel://h1/lanes?sentinel_health_check_interval=x", "expected a whole number of at least 0, got"),
        ("redis+sentinel://h1/lanes?sentinel_ssl_cert_reqs=none", "expected rediss+sentinel:// for an option of TLS"),
    ],
)
@pytest.mark.parametrize("opened", OPENERS)
def test_redis_url_that_cannot_work_is_refused_when_the_producer_is_made(
    opened: Callable[..., object], url: str, reason: str
) -> None:
    message = refusal(opened, url, rq_url="redis://h")
    assert message.startswith("LEVELQ_REDIS_URL: ")
    assert reason in message


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0?decode_responses=True&encoding=latin-1&encoding_errors=ignore&retry_on_timeout=yes"
        "&retry_on_error=x",
        "rediss://host?db=3&health_check_interval=30&protocol=3&max_connections=50&socket_timeout=1.5&client_name=a%40b"
        "&ssl_cert_reqs=none&ssl_check_hostname=no&ssl_ca_certs=/etc/ca.pem&socket_read_size=4096",
        "unix:///run/valkey.sock?db=1&password=p",
        "redis://[::1]:6379/0",
        "redis://",
    ],
)
def test_option_of_redis_py_is_taken_by_both_clients(url: str) -> None:
    url = Settings.load(redis_url=url).redis_url
    for client in (connect(url, 1), connect_async(url, 1)):
        made: Any = client.connection_pool.make_connection()
        assert made.encoder.decode_responses is False
        assert made.encoder.encoding == "utf-8"
        assert made.retry._retries == 0


def test_options_have_their_own_types() -> None:
    url, options = url_and_options("redis://h:1/2?db=3&socket_timeout=1.5&socket_keepalive=Yes&protocol=3")
    assert url == "redis://h:1"
    assert options == {"db": 3, "socket_timeout": 1.5, "socket_keepalive": True, "protocol": 3}


def test_sentinel_options_have_their_own_types() -> None:
    target = RedisTarget.read(
        "rediss+sentinel://h/lanes?sentinel_health_check_interval=5&sentinel_ssl_check_hostname=no"
    )
    assert target is not None
    assert target.for_sentinels == {"health_check_interval": 5, "ssl_check_hostname": False}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"postgresql://u:{SECRET}@h:x/d", "cannot be read; expected postgresql://user:password@host:port/database"),
        (f"postgresql://u:{SECRET}@h:65536/d", "cannot be read; expected postgresql://"),
        (f"postgresql://u:{SECRET}@h1:5432,h2:x/d", "cannot be read; expected postgresql://"),
        (f"postgresql://u:{SECRET}@h1:5432,,h2/d", "expected a host before and after each comma"),
        (f"postgresql://u:x@{SECRET}@h/d", "cannot be read; expected postgresql://"),
        (f"postgresql://u:{SECRET}[@h/d", "cannot be read"),
    ],
)
def test_database_url_that_cannot_be_read_is_refused_before_anything_connects(url: str, reason: str) -> None:
    for name in ("database_url", "listen_url"):
        given = {"database_url": "postgresql://h/d", name: url}
        message = refusal(lambda given=given: Producer(Settings.load(**given)))
        assert message.startswith(f"LEVELQ_{name.upper()}: ")
        assert reason in message and ESCAPED in message


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (f"unheard={SECRET}", "expected an option that libpq knows, got 'unheard'"),
        ("prepare_threshold=5", "expected an option that libpq knows, got 'prepare_threshold'"),
        ("sslmode=nonsense", "sslmode: expected one of disable, allow, prefer, require, verify-ca, verify-full, got"),
        ("connect_timeout=abc", "connect_timeout: expected a whole number of at least 1, got 'abc'"),
        ("connect_timeout=0", "connect_timeout: expected a whole number of at least 1, got '0'"),
        ("host=h1,h2&port=5433", "port: expected one for each host, 2, got 1"),
        ("port=5432,5433", "port: expected one for each host, 1, got 2"),
        ("keepalives_idle=-1", "keepalives_idle: expected a whole number of at least 0, got '-1'"),
        ("target_session_attrs=writable", "target_session_attrs: expected one of any, read-write, "),
        ("port=123456", "port: expected 1 to 65535, got '123456'"),
    ],
)
def test_database_option_that_libpq_refuses_is_refused_by_every_caller(query: str, reason: str) -> None:
    url = f"postgresql://u:{SECRET}@h/d?{query}"
    settings = Settings.load(database_url=url)
    for call in (Producer, AsyncProducer, engine_for, check_database_urls):
        message = refusal(call, settings)
        assert message.startswith("LEVELQ_DATABASE_URL: ")
        assert reason in message
    message = refusal(Outbox, Session(), settings=settings)
    assert reason in message
    message = refusal(check_database_urls, Settings.load(listen_url=url))
    assert message.startswith("LEVELQ_LISTEN_URL: ") and reason in message


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write", "h1,h2", "5432,5433"),
        ("postgresql://u:p@db_1,[::1]:5433,10.0.0.1/d", "db_1,::1,10.0.0.1", ",5433,"),
        ("postgresql://u@%2Frun%2Fpostgresql/d", "/run/postgresql", ""),
        ("postgresql://u:p@/d?host=h1:5432&host=h2:5433", "h1,h2", "5432,5433"),
        ("postgresql://u:p@h1/d?options=-c%20statement_timeout%3D5", "h1", None),
    ],
)
def test_hosts_of_a_database_url_are_read_as_libpq_does(url: str, host: str, port: str | None) -> None:

    parsed, several = target_of(Settings.load(database_url=url).sqlalchemy_url)
    given = {**parsed.get_dialect()().create_connect_args(parsed)[1], **several}
    assert (given["host"], given.get("port")) == (host, port)
    assert (given["user"], given["dbname"]) == ("u", "d")


@pytest.mark.parametrize("wrong", ["text", "2ff00964-15c4-49b5-83ae-b2b509dad054", None, 7, b"x" * 16, "x" * 10_000])
def test_handle_without_a_uuid_is_refused_with_the_value(wrong: object) -> None:
    for producer in (Producer(), AsyncProducer()):
        with pytest.raises(InvalidCommand) as caught:
            producer.handle(wrong)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"command_id: expected a UUID, got {repr(wrong)[:80]}")
        assert len(str(caught.value)) < 200
        made = uuid4()
        assert producer.handle(made).command_id == made
