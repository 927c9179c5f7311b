"""Database URLs, checked as far as possible before a connection is made.

    postgresql://user:password@host:port/database?option=value
    postgresql://user:password@h1:5432,h2:5432/database     libpq tries one after the other

Errors never show a piece of a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.url_options import MISREAD

if TYPE_CHECKING:
    from levelq_core.settings import Settings

_FORM = f"cannot be read; expected postgresql://user:password@host:port/database, {MISREAD}"
# libpq's, as of PostgreSQL 18, and `ssl`, which it takes for sslmode=require.
_OPTIONS = """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
    gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle
    keepalives_interval krbsrvname load_balance_hosts max_protocol_version min_protocol_version oauth_client_id
    oauth_client_secret oauth_issuer oauth_scope options passfile password port replication require_auth
    requirepeer requiressl scram_client_key scram_server_key service servicefile ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode
    sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user
"""
OPTIONS = frozenset(_OPTIONS.split())
_WORDS = {
    "channel_binding": "disable prefer require",
    "gssencmode": "disable prefer require",
    "keepalives": "0 1",
    "load_balance_hosts": "disable random",
    "sslcertmode": "disable allow require",
    "sslmode": "disable allow prefer require verify-ca verify-full",
    "sslnegotiation": "postgres direct",
    "target_session_attrs": "any read-write read-only primary standby prefer-standby",
}
# The least value of each: 0 seconds to connect would mean no limit.
_NUMBERS = {"connect_timeout": 1} | dict.fromkeys(
    ("keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"), 0
)


class Hosts(NamedTuple):
    """The hosts of a URL, and the URL without them. A port is "" where it is libpq's default."""

    before: str
    hosts: list[tuple[str, str]]
    after: str


def check_database_url(name: str, url: str) -> Hosts:
    """The hosts of a URL that libpq would take. `name`: the setting.

    Raises ConfigurationError for a URL that cannot be read, an option that libpq does not know, or a value that it
    refuses, with no part of a password.
    """
    unreadable = ConfigurationError(f"{name}: {_FORM}", setting=name)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise unreadable from None
    if parts.netloc.count("@") > 1 or "@" in parts.path + parts.query or "#" in url or url != url.strip():
        raise unreadable
    user, at, text = parts.netloc.rpartition("@")
    hosts = [host for host in map(_host, text.split(",")) if host is not None]
    if len(hosts) <= text.count(","):
        raise unreadable
    if len(hosts) > 1 and not all(host for host, _ in hosts):
        raise ConfigurationError(f"{name}: expected a host before and after each comma; {_FORM}", setting=name)
    options = parse_qsl(parts.query)
    for option, value in options:
        if option not in OPTIONS and option != "ssl":
            shown = f", got {option!r}" if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,40}", option) else ""
            raise ConfigurationError(f"{name}: expected an option that libpq knows{shown}", setting=name)
        expected = _unmet(option, value)
        if expected:
            message = f"{name}: {option}: expected {expected}, got {value[:80]!r}"
            raise ConfigurationError(message, setting=name, value=value)
    # libpq would take one port for all hosts, SQLAlchemy does not.
    number, ports = _count("host", options) or len(hosts), _count("port", options)
    if ports not in (0, number):
        message = f"{name}: port: expected one for each host, {number}, got {ports}"
        raise ConfigurationError(message, setting=name, value=ports)
    return Hosts(user + at, hosts, url.partition("://")[2][len(parts.netloc) :])


def _host(text: str) -> tuple[str, str] | None:
    """Host and port; None if they cannot be read."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:]*))(?::([0-9]*))?", text)
    if match is None or (match[3] and not 1 <= int(match[3][:9]) <= 65_535):
        return None
    return match[1] or unquote(match[2] or ""), match[3] or ""


def _count(option: str, options: list[tuple[str, str]]) -> int:
    return sum(value.count(",") + 1 for name, value in options if name == option)


def _unmet(option: str, value: str) -> str | None:
    """What was expected as this option's value, in words; None if the value is right."""
    if option in _WORDS:
        words = _WORDS[option].split()
        return None if value in words else f"one of {', '.join(words)}"
    if option in _NUMBERS:
        good = re.fullmatch(r"[0-9]{1,9}", value) and int(value) >= _NUMBERS[option]
        return None if good else f"a whole number of at least {_NUMBERS[option]}"
    if option == "port":
        ports = value.split(",")
        good = all(not port or (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65_535) for port in ports)
        return None if good else "1 to 65535"
    return None


def check_database_urls(settings: Settings) -> None:
    """Raise ConfigurationError for a database URL that cannot be read, or that libpq would refuse at each connection.

    For what connects to a database, or may later; nothing is connected here.
    """
    for name, url in (("LEVELQ_DATABASE_URL", settings.database_url), ("LEVELQ_LISTEN_URL", settings.listen_url)):
        if url is not None:
            check_database_url(name, url)
