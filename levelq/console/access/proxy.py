"""Logins by an authenticating proxy, which names who has logged in there in a header."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Self

from starlette.exceptions import HTTPException
from starlette.requests import Request

from levelq_core.errors import ConfigurationError
from levelq_core.settings import MOST_NAME, Settings

from .login import Login

HEADER, PROXIES, OPERATORS = (f"LEVELQ_CONSOLE_{name}" for name in ("LOGIN_HEADER", "PROXIES", "OPERATORS"))


class ProxyLogins:
    """The header counts only on connections that come from one of the proxies: anyone else could send it, too."""

    def __init__(self, header: str, proxies: str, operators: str) -> None:
        self._header = header
        self._proxies = tuple(ip_network(one.strip(), strict=False) for one in proxies.split(","))
        self._operators = frozenset(name.strip() for name in operators.split(","))

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """As the settings name them; None if they name no header. Raises ConfigurationError if one is missing."""
        header, proxies, operators = (
            settings.console_login_header,
            settings.console_proxies,
            settings.console_operators,
        )
        if header is not None and proxies is None:
            message = (
                f"{PROXIES}: not set, expected the addresses of the proxies whose {header} header is to be trusted"
            )
            raise ConfigurationError(message, setting=PROXIES)
        if header is None and (proxies or operators):
            message = (
                f"{HEADER}: not set, expected the header in which the proxy names the login, or no {PROXIES} either"
            )
            raise ConfigurationError(message, setting=HEADER)
        return cls(header, proxies, operators or "") if header is not None and proxies is not None else None

    def login_of(self, request: Request) -> Login | None:
        """Whom a proxy names; None if the connection is not from one. Raises HTTPException 403 for a bad name."""
        if not self._is_proxy(request):
            return None
        given = request.headers.getlist(self._header)
        if not given:
            return None
        try:
            (latin,) = given
            name = latin.encode("latin-1").decode().strip()
        except ValueError:  # several, or no UTF-8
            name = ""
        if not name or len(name) > MOST_NAME or not name.isprintable():
            what = f"expected one name of at most {MOST_NAME} printable characters"
            raise HTTPException(403, f"the {self._header} header of the proxy: {what}")
        return Login(name, "operator" if name in self._operators else "reader")

    def _is_proxy(self, request: Request) -> bool:
        try:
            peer = ip_address(request.client.host.partition("%")[0] if request.client else "")
        except ValueError:
            return False
        if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self._proxies)
