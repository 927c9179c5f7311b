"""What is retried or discarded: one row, the marked ones of a page, or all that its filter matches.

The confirmation shows a dry run and keeps the ids that it found; only those are acted on, whatever was added since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import join
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Engine

from levelq.console.filters import Filter
from levelq.console.whole_numbers import MOST_ROW_ID, whole_number
from levelq_core.errors import ConfigurationError, InvalidArgument
from levelq_core.lanes.client import Lanes
from levelq_core.operations.connections import database_of, lanes_of
from levelq_core.operations.readings.selection import Selection
from levelq_core.operations.wording import count
from levelq_core.untrusted_text import quoted
from levelq_worker.redrive.quarantined import Returning
from levelq_worker.redrive.redriving import PAGE, Redriving
from levelq_worker.redrive.rejected import Retrying

from .act import Asked

MOST = PAGE  # rows of one act, the oldest first: as the commands have it
_MOST_NAMED = 10  # ids in a command line that is shown


class Kind(NamedTuple):
    """A kind of row. `act`: how its acts' URLs end. `columns`: by their headings, the fields that tell causes apart.

    `sends`: a sentence that says how a row is sent. `means`: sentences that say what it is to discard one, and
    `for_good` whether nothing brings it back.
    """

    redriving: type[Redriving[Any]]
    act: str
    page: str
    read_id: Callable[[str], Any]
    columns: Mapping[str, str]
    sends: str
    means: tuple[str, ...]
    for_good: bool

    @property
    def name(self) -> str:
        """Of one row, in sentences."""
        return self.redriving.name


@dataclass(frozen=True)
class Chosen:
    """What an act's URL chooses. `ids`: those that it names; none: all that `filter` matches.

    `kept`: the ids that the confirmation showed, None before it did.
    """

    kind: Kind
    ids: tuple[Any, ...]
    filter: Filter
    kept: tuple[Any, ...] | None

    @classmethod
    def of(cls, kind: Kind, asked: Asked) -> Chosen:
        """Read it. Raises InvalidArgument, ConfigurationError."""
        if not asked.ids and not asked.values.get("all"):
            raise InvalidArgument(f"id: expected the id of a {kind.name}, got none: mark some first", field="id")
        kept = asked.values.get("kept")
        return cls(
            kind,
            tuple(dict.fromkeys(map(kind.read_id, asked.ids))),
            Filter.of(asked.values),
            None if kept is None else tuple(map(kind.read_id, kept.split())),
        )

    def selection(self) -> Selection:
        """What to read for the dry run; for the act, the rows that the dry run found. Raises InvalidArgument."""
        if self.kept == ():
            raise InvalidArgument("kept: expected the ids that the confirmation showed, got none", field="kept")
        return self.filter.selection(self.ids if self.kept is None else self.kept)

    def require_shown(self) -> None:
        """Raise InvalidArgument unless a confirmation was shown: the act is done to what it showed."""
        if self.kept is None:
            raise InvalidArgument("kept: expected the ids that the confirmation showed, got none", field="kept")

    def is_due(self, row: Any) -> bool:
        """Whether to act on a row: not if others settled it while the confirmation was shown, unless it was named."""
        return bool(self.ids) or row.settled is None

    def keep(self, rows: Sequence[Any]) -> tuple[tuple[str, str], ...]:
        """The hidden field of the confirmation."""
        return (("kept", " ".join(str(row.key) for row in rows)),)

    def missing(self, rows: Sequence[Any]) -> list[str]:
        """A sentence for each id that was named and not found."""
        there = {row.key for row in rows}
        return [f"No {self.kind.name} {one}: it is gone, or never was." for one in self.ids if one not in there]

    def command(self, verb: str, *options: str) -> str:
        """The command line that does the same."""
        named = [str(one) for one in self.ids[:_MOST_NAMED]] or self.filter.options()
        more = f" ... and {len(self.ids) - _MOST_NAMED} more ids" if len(self.ids) > _MOST_NAMED else ""
        return join(["levelq", self.kind.redriving.group, verb, *named, *options]) + more

    def said(self) -> str:
        """What the act is done to, as a title says it."""
        if len(self.ids) == 1:
            return f"{self.kind.name} {self.ids[0]}"
        if self.ids:
            return count(len(self.ids), f"marked {self.kind.name}")
        plural = count(2, self.kind.name).removeprefix("2 ")
        return f"all {plural} that match" if self.filter.given else f"all {plural}"

    @property
    def back(self) -> str:
        """The list as it was filtered."""
        return self.filter.url(self.kind.page)


@contextmanager
def database(asked: Asked) -> Iterator[Engine]:
    """The console's engine. Raises ConfigurationError, also for an error of the database inside."""
    if asked.console.engine is None:
        raise ConfigurationError("LEVELQ_DATABASE_URL: not set", setting="LEVELQ_DATABASE_URL")
    with database_of(asked.console.settings, asked.console.engine) as engine:
        yield engine


@contextmanager
def both(asked: Asked) -> Iterator[tuple[Engine, Lanes]]:
    """The same, and the lanes."""
    with database(asked) as engine, lanes_of(asked.console.settings) as lanes:
        yield engine, lanes


def _command_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidArgument(f"id: expected a command's id, got {quoted(text)}", field="id", value=text) from None


def _row_id(text: str) -> int:
    number = whole_number(text, MOST_ROW_ID)
    if number is None:
        raise InvalidArgument(f"id: expected the number of an entry, got {quoted(text)}", field="id", value=text)
    return number


REJECTED = Kind(
    Retrying,
    act="rejected",
    page="/rejected",
    read_id=_command_id,
    columns={"Lanes": "specialization", "Command": "kind", "Error": "error", "Why": "message"},
    sends="Each is a new command of the same content, whose id follows from the old one: a second retry changes "
    "nothing.",
    means=(
        "They leave this list and the number of open rejections. What they would have changed is not applied.",
        "Their rows of the ledger stay: a second send of the same id still has no effect; they can still be retried by "
        "id.",
    ),
    for_good=False,
)
QUARANTINED = Kind(
    Returning,
    act="quarantined",
    page="/quarantined",
    read_id=_row_id,
    columns={"Lanes": "specialization", "Why": "reason"},
    sends="Each is a command after all, under its own id; it leaves the quarantine when it is sent.",
    means=("Their bytes are deleted for good. The audit keeps their lengths and hashes.",),
    for_good=True,
)
KINDS = (REJECTED, QUARANTINED)
