"""What decides who may do what in one console: its logins, sessions, signatures and limits."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from levelq_core.errors import ConfigurationError
from levelq_core.log_events import log_event
from levelq_core.operations.audit import account
from levelq_core.redis_client.encryption import is_loopback
from levelq_core.settings import Settings

from .hosts import SETTING as URL
from .limits import Limit, address_key
from .login import Login
from .login_file import SETTING as LOGINS
from .login_file import Entry, LoginFile
from .proxy import HEADER, PROXIES, ProxyLogins
from .sessions import Sessions, session_key
from .signing import Signatures

MOST_AT_ONCE = 24  # pages at once; below the 40 threads of Starlette, so that files and logins still have some
T = TypeVar("T")
_FORWARDED = ("forwarded", "via", "x-real-ip")  # and x-forwarded-...: what proxies add


class Guard:
    """Made with the application. Raises ConfigurationError if the settings do not fit together."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = settings.console_url
        self.file = None if settings.console_logins is None else LoginFile(settings.console_logins)
        self.proxy = ProxyLogins.of(settings)
        self.sessions = Sessions(clock)
        self.signatures = Signatures()
        self.acts = Limit(60, 60.0, clock)  # of one login
        self._failures = Limit(10, 60.0, clock)  # of one address
        self._all_failures = Limit(100, 60.0, clock)
        self._local = Login(account(), "operator")
        self._at_once = 0
        self._reported: str | None = None
        if self.file is not None:
            self.file.entries()  # a console whose token file cannot be read does not start
        if not self.has_logins and self.url is not None and not is_loopback(urlsplit(self.url).hostname or ""):
            raise ConfigurationError(f"{URL}: {self.url} is not loopback, {_NEEDS_LOGIN}", setting=URL)

    @property
    def has_logins(self) -> bool:
        """Whether one must log in; if not, each browser on this machine is an operator by this process's account."""
        return self.file is not None or self.proxy is not None

    @property
    def secure(self) -> bool:
        """Whether browsers come by https: then cookies are never sent otherwise."""
        return self.url is not None and self.url.startswith("https://")

    def check_address(self, host: str, address: str) -> None:
        """Raise ConfigurationError if others could reach this address without a login, or by a name that is not set."""
        if is_loopback(address):
            return
        if not self.has_logins:
            raise ConfigurationError(f"--host {host}: is not loopback, {_NEEDS_LOGIN}", setting=LOGINS)
        if self.url is None:
            what = f"expected where browsers reach it, such as https://levelq.example: --host {host} is not loopback"
            raise ConfigurationError(f"{URL}: not set, {what}", setting=URL)

    def cookie_name(self, request: Request) -> str:
        """With the port, because browsers send a host's cookies to all its ports, where other consoles may be."""
        port = (request.scope.get("server") or ("", 0))[1]
        return f"{'__Host-' if self.secure else ''}levelq-{port}"

    def login_of(self, request: Request) -> Login | None:
        """Who makes this request, None if that is not known. Notes the session as `request.state.session`.

        Raises HTTPException 403 for what is not let in without logins, or 503 if the token file cannot be read.
        """
        request.state.session = ""
        if not self.has_logins:
            return self._local_login(request)
        login = self.proxy.login_of(request) if self.proxy else None
        if login is not None or self.file is None:
            return login
        key = session_key(request.cookies.get(self.cookie_name(request), ""))
        entry = self.sessions.entry_of(key)
        if entry is None:
            return None
        if not self._read(lambda file: file.holds(entry)):
            self.sessions.end(key)
            return None
        request.state.session = key
        return entry.login

    def try_token(self, request: Request, token: str) -> Entry | None:
        """The entry of this token, None if it is not known, which counts. Raises HTTPException 429 after too many."""
        address = request.client.host if request.client else ""
        key = address_key(address)
        refuse_if_busy(max(self._failures.wait(key), self._all_failures.wait("")), "logins failed")
        entry = self._read(lambda file: file.find(token))
        if entry is None:
            self._failures.use(key)
            self._all_failures.use("")
            log_event(
                logging.WARNING, "console_login_failed", "console: a login from %(address)s failed", address=address
            )
        return entry

    @contextmanager
    def one_of_few(self) -> Iterator[None]:
        """A page is made. Raises HTTPException 503 if too many are, as when PostgreSQL does not answer."""
        if self._at_once >= MOST_AT_ONCE:
            what = f"{MOST_AT_ONCE} pages are being made already; PostgreSQL or Redis may be slow"
            raise HTTPException(503, what, {"Retry-After": "2"})
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    def _local_login(self, request: Request) -> Login:
        peer = request.client.host if request.client else ""
        forwarded = any(name in _FORWARDED or name.startswith("x-forwarded-") for name in request.headers)
        if not peer or not is_loopback(peer) or forwarded:
            raise HTTPException(
                403, f"this console has no logins, so it answers this machine alone, and no proxy: {LOGINS}"
            )
        return self._local

    def _read(self, question: Callable[[LoginFile], T]) -> T:
        assert self.file is not None
        try:
            answer = question(self.file)
        except ConfigurationError as error:
            if self._reported != str(error):
                self._reported = str(error)
                log_event(logging.ERROR, "console_logins_unreadable", "console: %(error)s", error=str(error))
            raise HTTPException(503, f"{LOGINS}: the file cannot be read; the console's log has the reason") from None
        self._reported = None
        return answer


def refuse_if_busy(seconds: float, what: str) -> None:
    """Raise HTTPException 429 that says when to come again, unless `seconds` is 0."""
    if seconds > 0:
        wait = math.ceil(seconds)
        raise HTTPException(429, f"too many {what}: wait {wait} s", {"Retry-After": str(wait)})


_NEEDS_LOGIN = (
    f"expected logins then: {LOGINS} (a token file; `levelq console --new-login NAME` adds a line), "
    f"or {HEADER} with {PROXIES}"
)
