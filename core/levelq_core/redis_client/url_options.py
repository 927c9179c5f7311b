"""The options behind the ? of a Redis URL: their names, types and ranges in redis-py.

redis-py accepts unknown options and fails when it connects. Errors here never show the values of secret options.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

# Ignored in URLs: levelq needs replies as bytes, and a client that repeats no command.
OVERRIDDEN = frozenset({"decode_responses", "encoding", "encoding_errors", "retry_on_error", "retry_on_timeout"})
MISREAD = "with # / ? @ and [ in a user or a password written as %23 %2F %3F %40 and %5B"


class Option(NamedTuple):
    """How an option is read (`read` raises ValueError), and what is expected, in words."""

    read: Callable[[str], Any]
    expected: str = ""


def _option(
    pattern: str, convert: Callable[[str], Any], expected: str, accepts: Callable[[Any], bool] = lambda value: True
) -> Option:
    def read(text: str) -> Any:
        if not re.fullmatch(pattern, text) or not accepts(convert(text)):
            raise ValueError
        return convert(text)

    return Option(read, expected)


def _whole(least: int, most: int | None = None) -> Option:
    expected = f"a whole number of at least {least}" if most is None else f"{least} to {most}"
    return _option("[0-9]{1,9}", int, expected, lambda number: least <= number <= (number if most is None else most))


_TEXT = Option(str)  # never refused, so no password is shown
_SWITCH = _option("(?i:yes|no|true|false|1|0)", lambda text: text.lower() in ("yes", "true", "1"), "yes or no")
_SECONDS = _option(r"[0-9]{1,6}(\.[0-9]+)?", float, "seconds above 0", bool)
_EVERYWHERE = {
    **dict.fromkeys(("username", "password", "client_name", "lib_name", "lib_version"), _TEXT),
    **dict.fromkeys(("db", "health_check_interval"), _whole(0)),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _SECONDS),
    **dict.fromkeys(("max_connections", "socket_read_size"), _whole(1)),
    "protocol": _whole(2, 3),
}
_TCP = {"host": _TEXT, "port": _whole(1, 65_535), "socket_keepalive": _SWITCH}
_SOCKET = {"path": _TEXT}
_TLS = {
    **dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_ciphers"), _TEXT),
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"), _TEXT),
    "ssl_cert_reqs": _option("none|optional|required", str, "none or optional or required"),
    "ssl_check_hostname": _SWITCH,
}
_OF_SENTINELS = "sentinel_"
# Options of the constructor of redis-py's Redis, which makes the clients of Sentinels.
_FOR_SENTINELS = {"username", "password", "client_name", "health_check_interval", "protocol", "socket_keepalive", *_TLS}


def read_options(scheme: str, query: str) -> dict[str, Any]:
    """The options of a URL for redis-py, those for Sentinels with their prefix. `scheme` is the whole one of the URL.

    Raises ValueError for an option that is unknown or not for this scheme, and for a wrong value.
    """
    kind = scheme.partition("+")[2]
    known = _known(scheme)
    if kind == "sentinel":
        known |= {_OF_SENTINELS + name: option for name, option in known.items() if name in _FOR_SENTINELS}
    if kind:  # the servers are named in the URL alone
        known = {name: option for name, option in known.items() if name not in ("host", "port", "db")}
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query):
        if name.removeprefix(_OF_SENTINELS if kind == "sentinel" else "") in OVERRIDDEN:
            continue
        if name not in known:
            raise ValueError(f"cannot be read; expected {_expected(known, name, scheme)}{_got(name)}")
        option = known[name]
        try:
            found.setdefault(name, option.read(value))  # of two, redis-py takes the first
        except ValueError:
            raise ValueError(f"{name}: expected {option.expected}, got {value[:80]!r}") from None
    return found


def _known(scheme: str) -> dict[str, Option]:
    if scheme == "unix":
        return _EVERYWHERE | _SOCKET
    return _EVERYWHERE | _TCP | (_TLS if scheme.startswith("rediss") else {})


def _expected(known: dict[str, Option], name: str, scheme: str) -> str:
    if name.removeprefix(_OF_SENTINELS) in _TLS and scheme != "unix":
        return f"{scheme.replace('redis', 'rediss', 1)}:// for an option of TLS"
    return f"one of these options: {', '.join(sorted(known))}"


def _got(name: str) -> str:
    """The name, if it looks like one; other text may be part of a password."""
    return f"; got {name!r}" if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,40}", name) else ""


def redacted(url: str) -> str:
    """The URL with its passwords, if any, replaced by ***: fit for logs and error messages."""
    url = re.sub(r"(?<=[?&])((?:sentinel_)?(?:ssl_)?(?:ssl)?password)=[^&#]*", r"\1=***", url)
    # Up to the last @: a password with / or ? in it is wrong in a URL, but no less secret.
    return re.sub(r"(?<=://)([^:/@?]*):.*@", r"\1:***@", url)
