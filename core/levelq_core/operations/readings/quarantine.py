"""Entries of lanes that were no commands: what is kept of each, and whether this version can read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from sqlalchemy import Connection

from levelq_core.database.table_names import QUARANTINE
from levelq_core.domain import codec
from levelq_core.domain.commands import Command
from levelq_core.domain.record import KIND_NAMES, Lane
from levelq_core.operations.wording import count, time_of, when_utc

from .history import QuarantinedEntry
from .records import Time
from .row_list import Conditions, RowList
from .selection import Selection

_WIDTH = 16  # bytes in one line of a dump


class KeptEntry(QuarantinedEntry):
    """One entry of the quarantine. `user_id` is None if its lane's name is no user id, or the user was forgotten.

    `sha256`: of `raw`, hexadecimal.
    """

    settled: ClassVar[str | None] = None  # as a rejected command has it; an entry that is dealt with is deleted

    id: int
    at: Time
    user_id: int | None
    sha256: str

    @property
    def key(self) -> int:
        """The id by which operators name it."""
        return self.id

    @property
    def lane(self) -> Lane:
        """The lane it was in; user 0 if it has none."""
        return Lane(self.specialization, self.user_id or 0)

    @property
    def entry(self) -> bytes:
        """Its bytes as they would be in a lane: a row of the outbox has no stamp."""
        return b"0" * codec.STAMP_DIGITS + self.raw if self.raw.startswith(codec.MAGIC) else self.raw

    def fields(self) -> dict[str, int | str]:
        """The fields of the wire format, as far as it has them."""
        return codec.legible(self.entry)

    def facts(self) -> Iterator[tuple[str, Any]]:
        """What is known of it, each with a label: its fields as far as they can be read."""
        yield "why", self.reason
        yield "length", f"{count(self.length, 'byte')}, {count(len(self.raw), 'byte')} kept"
        yield "sha256", self.sha256
        for name, value in self.fields().items():
            shown = KIND_NAMES.get(int(value), value) if name == "kind" else value
            if name == "stamp" and str(value).isdecimal():
                shown = f"{value}, {when_utc(time_of(int(value)))}"
            yield name.replace("_", " "), shown

    def dump(self) -> Iterator[str]:
        """Its bytes in hexadecimal, 16 a line, and beside them those that are visible ASCII."""
        for at in range(0, len(self.raw), _WIDTH):
            part = self.raw[at : at + _WIDTH]
            visible = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            yield f"{at:04x}  {part.hex(' '):<{3 * _WIDTH - 1}}  {visible}"

    def command(self) -> Command:
        """The command that it holds after all.

        Raises ValueError (MalformedEntry, NewerVersion, InvalidCommand) with the reason why there is none.
        """
        if self.user_id is None:
            raise codec.MalformedEntry(
                "no user is known: the name of its lane was no user id, or the user was forgotten"
            )
        if self.length != len(self.raw):
            raise codec.MalformedEntry(f"only the first {len(self.raw):,} of its {self.length:,} bytes are kept")
        return codec.command_of(self.lane, codec.decode(self.entry, self.lane.salt))


def _conditions(connection: Connection, selection: Selection, before: int | None) -> Conditions:
    named = "id = ANY(CAST(:ids AS bigint[]))"
    return selection.conditions(connection, QUARANTINE, before, ids=named, moment="at", reason="reason")


def _entries(_: Connection, rows: Sequence[Any]) -> list[KeptEntry]:
    return [KeptEntry.model_validate(dict(row)) for row in rows]


_COLUMNS = "id, at, specialization, user_id, reason, length, raw, encode(sha256, 'hex') AS sha256"

QUARANTINED = RowList(QUARANTINE, _COLUMNS, _conditions, _entries)
