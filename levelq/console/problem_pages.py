"""Which page of the console, or which act, ends a problem of `levelq status`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlencode


class Way(NamedTuple):
    """A link that a problem's line has. `acts`: it leads to an act, which readers may not do."""

    href: str
    label: str
    acts: bool = False


def _resume(found: re.Match[str]) -> Way:
    named = {name: value for name, value in found.groupdict().items() if value}
    return Way(f"/act/resume?{urlencode(named)}", "Resume", acts=True)


# By the words of a problem; the first that fits.
_WAYS: tuple[tuple[str, Callable[[re.Match[str]], Way]], ...] = (
    (r"^user (?P<user>\d+) in (?P<specialization>\w+): paused by ", _resume),
    (r"^(?P<specialization>[A-Z_]+): paused by ", _resume),
    (r"out of step \(progress, license\)", lambda _: Way("/drift", "Repair")),
    (r"to be retried or discarded", lambda _: Way("/rejected", "Rejected")),
    (r"is silent since|batches take .* usually|workers? waiting for", lambda _: Way("/workers", "Workers")),
    (r"^([A-Z_]+:\d+:\d+): ", lambda found: Way(f"/partitions/{found[1].replace(':', '%3A')}", "Partition")),
)


def page_for(problem: str) -> Way | None:
    """Where the console shows more of a problem or ends it; None if nowhere."""
    for words, way in _WAYS:
        found = re.search(words, problem)
        if found is not None:
            return way(found)
    return None
