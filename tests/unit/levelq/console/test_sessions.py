"""Sessions end: by themselves, by a logout, and when there are too many."""

import pytest

from levelq.console.access.login import Login
from levelq.console.access.login_file import Entry
from levelq.console.access.sessions import IDLE, LIFETIME, MOST_OF_LOGIN, MOST_SESSIONS, Sessions, session_key
from tests.unit.levelq.console.clock import Clock

ANNA = Entry(Login("anna", "operator"), b"a" * 32)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_session_is_found_by_its_cookie_alone(clock: Clock) -> None:
    sessions = Sessions(clock)
    key = session_key(sessions.begin(ANNA))
    assert sessions.entry_of(key) == ANNA
    assert sessions.entry_of(session_key("")) is None
    assert sessions.entry_of(session_key(key)) is None


def test_session_that_is_not_used_ends(clock: Clock) -> None:
    sessions = Sessions(clock)
    key = session_key(sessions.begin(ANNA))
    clock.now += IDLE
    assert sessions.entry_of(key) == ANNA
    clock.now += IDLE + 1
    assert sessions.entry_of(key) is None
    clock.now -= IDLE
    assert sessions.entry_of(key) is None


def test_session_in_use_ends_after_its_lifetime(clock: Clock) -> None:
    sessions = Sessions(clock)
    key = session_key(sessions.begin(ANNA))
    for _ in range(int(LIFETIME / 1_800)):
        clock.now += 1_800
        assert sessions.entry_of(key) == ANNA
    clock.now += 1
    assert sessions.entry_of(key) is None


def test_oldest_session_ends_when_there_are_too_many(clock: Clock) -> None:
    sessions = Sessions(clock)
    others = [Entry(Login(f"wall{number}", "reader"), b"b" * 32) for number in range(MOST_SESSIONS + 1)]
    keys = [session_key(sessions.begin(each)) for each in others]
    assert sessions.entry_of(keys[0]) is None
    assert (sessions.entry_of(keys[1]), sessions.entry_of(keys[-1])) == (others[1], others[-1])


def test_login_cannot_end_the_sessions_of_others_by_beginning_many(clock: Clock) -> None:
    sessions = Sessions(clock)
    other = session_key(sessions.begin(Entry(Login("ben", "operator"), b"b" * 32)))
    keys = [session_key(sessions.begin(ANNA)) for _ in range(MOST_SESSIONS + 1)]
    assert sessions.entry_of(other) is not None
    assert [sessions.entry_of(key) for key in keys[-MOST_OF_LOGIN - 1 :]] == [None, *[ANNA] * MOST_OF_LOGIN]
