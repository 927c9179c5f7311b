"""What pause and resume share: the scope of the URL, its words, and the operation behind both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from urllib.parse import urlencode

from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations.connections import redis_of
from levelq_core.operations.pausing import PauseScope, Pausing
from levelq_core.operations.readings.pauses import ActivePause, described, pause_what
from levelq_core.operations.wording import count, one_line

from .act import Asked
from .scopes import specialization_of, user_of


def scope_of(asked: Asked) -> PauseScope:
    """A specialization, one user's lane in it, one user's lanes in all, or everything. Raises ConfigurationError."""
    name = specialization_of(asked)
    return PauseScope(None if name is None else (name,), user_of(asked))


def what(scope: PauseScope) -> str:
    """How pages name it: `PLAYER`, `user 42 in PLAYER`, `all specializations`."""
    name = ", ".join(scope.specializations) if scope.specializations else "all specializations"
    return name if scope.user_id is None else f"user {scope.user_id} in {name}"


def back(scope: PauseScope) -> str:
    """The page of the user, else of the specialization, else the overview."""
    if scope.user_id is not None:
        return f"/users/{scope.user_id}"
    return f"/partitions/{scope.specializations[0]}" if scope.specializations else "/"


def command(verb: str, scope: PauseScope, **options: str) -> str:
    """The command line that does the same."""
    words = ["levelq", verb, *(scope.specializations or ())]
    words += [] if scope.user_id is None else ["--user", str(scope.user_id)]
    for name, value in options.items():
        words += [f"--{name}", value] if value else []
    return " ".join(map(quote, words))


def address(verb: str, scope: PauseScope) -> str:
    """The act's URL."""
    named = {"specialization": ",".join(scope.specializations or ()), "user": scope.user_id or ""}
    return f"/act/{verb}?{urlencode({name: value for name, value in named.items() if value})}"


@contextmanager
def pausing(asked: Asked) -> Iterator[Pausing]:
    """The operation, connected, by the login's name. A RedisError inside becomes a ConfigurationError."""
    settings = asked.console.settings
    with redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        waker = Waker(redis, rq, settings.keys)
        yield Pausing(asked.console.engine, LaneEditor(redis, settings), waker, settings, asked.actor)


def pauses_shown(found: list[ActivePause]) -> tuple[tuple[str, ...], ...]:
    """The pauses as a table of the confirmation: what, and how; without headings if there are none."""
    lines = [(pause_what(user, names), how) for (user, how), names in described(found).items()]
    return (("Paused now", "How"), *lines) if lines else ()


def waiting(asked: Asked, scope: PauseScope) -> tuple[int, int]:
    """How many commands wait in the scope's partitions and how many of their lanes workers hold, of all users."""
    found = [
        each
        for each in asked.console.overview.get().status.partitions
        if not scope.specializations or each.specialization in scope.specializations
    ]
    return sum(each.waiting for each in found), sum(each.claimed for each in found)


def with_unwritten(sentence: str, unwritten: str | None) -> str:
    """The notice; an act that could not be written into the audit says so."""
    return sentence if unwritten is None else f"{sentence} It is not in the audit: {one_line(unwritten)}"


def held(lanes: int) -> str:
    """What workers still have in hand."""
    return f"{count(lanes, 'lane')} still with workers, which finish what they hold" if lanes else "no worker holds any"
