"""Who is logged in with a token: kept here and not in the cookie, so that a logout is final.

A cookie holds 256 random bits. A restart of the console ends all sessions, as its keys end with it.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from .login_file import Entry

LIFETIME = 12 * 3600.0
IDLE = 3600.0  # an open page refreshes itself, so it is not idle
MOST_SESSIONS = 1_000
MOST_OF_LOGIN = 50  # so that no login can end the sessions of others by beginning many


@dataclass
class _Session:
    entry: Entry
    began: float
    seen: float


class Sessions:
    """The sessions by a hash of their cookies, so that looking one up tells nothing by its time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def begin(self, entry: Entry) -> str:
        """Begin a session; its cookie. If there are too many, the oldest one ends, of this login or of all."""
        cookie, now = secrets.token_urlsafe(32), self._clock()
        mine = [key for key, other in self._sessions.items() if other.entry.login.name == entry.login.name]
        if len(mine) >= MOST_OF_LOGIN:
            self.end(mine[0])
        self._sessions[session_key(cookie)] = _Session(entry, now, now)
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie

    def entry_of(self, key: str) -> Entry | None:
        """Who has this session, None if it is over. This counts as use."""
        session, now = self._sessions.get(key), self._clock()
        if session is None:
            return None
        if now - session.began > LIFETIME or now - session.seen > IDLE:
            self.end(key)
            return None
        session.seen = now
        return session.entry

    def end(self, key: str) -> None:
        """End a session, if it is there."""
        self._sessions.pop(key, None)


def session_key(cookie: str) -> str:
    """The name of a session within this process; the cookie cannot be found from it."""
    return hashlib.sha256(cookie.encode(errors="surrogatepass")).hexdigest()
