"""Entries of lanes that were no commands: what is kept of each, and whether this version can read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from levelq_core.database.table_names import QUARANTINE
from levelq_core.domain import codec
from levelq_core.domain.commands import Command
from levelq_core.domain.record import KIND_NAMES, Lane
from levelq_core.operations.connections import require_engine
from levelq_core.operations.wording import count, time_of, when_utc

from .history import QuarantinedEntry
from .records import Reading, Time
from .selection import Search, Selection

ALL = Selection()
_WIDTH = 16  # bytes in one line of a dump


class KeptEntry(QuarantinedEntry):
    """One entry of the quarantine. `user_id` is None if its lane's name is no user id, or the user was forgotten.

    `sha256`: of `raw`, hexadecimal.
    """

    id: int
    at: Time
    user_id: int | None
    sha256: str

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


class QuarantinedPage(Reading):
    """One page. `before`: for the next one; None if there is none. It may be there although few rows or none fit."""

    rows: tuple[KeptEntry, ...]
    before: int | None = None


def quarantined(
    engine: Engine, selection: Selection = ALL, *, limit: int = 50, before: int | None = None
) -> tuple[KeptEntry, ...]:
    """Quarantined entries, the newest first: what `levelq quarantine list` prints. Changes nothing.

    `before`: for the next page, the `id` of the last one of this page. Raises SQLAlchemy's errors.
    """
    require_engine(engine)
    with engine.connect() as connection:
        return tuple(read(connection, selection, limit, before=before))


def quarantined_page(
    engine: Engine, selection: Selection = ALL, *, limit: int = 50, before: int | None = None
) -> QuarantinedPage:
    """The same for a page of a console, which must be there soon: it looks at the newest 5,000 entries only.

    Of a user, at their newest 5,000. `before`: that of the page before. Raises SQLAlchemy's errors.
    """
    require_engine(engine)
    with engine.connect() as connection:
        if selection.ids:
            return QuarantinedPage(rows=tuple(read(connection, selection, limit, before=before)))
        by_index, others, values = selection.divided(connection, QUARANTINE, "at", "reason")
        if before is not None:
            by_index.append("id < :before")
            values["before"] = before
        search = Search(QUARANTINE, by_index, others, values)
        rows = search.rows(connection, _COLUMNS, limit)
        return QuarantinedPage(
            rows=tuple(KeptEntry.model_validate(dict(row)) for row in rows),
            before=search.before(connection, rows, limit),
        )


def read(
    connection: Connection, selection: Selection, limit: int, *, before: int | None = None, oldest_first: bool = False
) -> list[KeptEntry]:
    """The same on a connection; `oldest_first`: the first `limit`."""
    conditions, values = selection.conditions(connection, QUARANTINE, "at", "reason")
    for condition, name, value in (
        ("id = ANY(CAST(:ids AS bigint[]))", "ids", list(selection.ids) or None),
        ("id < :before", "before", before),
    ):
        if value is not None:
            conditions.append(condition)
            values[name] = value
    order = "ASC" if oldest_first else "DESC"
    where = " AND ".join(conditions or ["true"])
    statement = text(f"SELECT {_COLUMNS} FROM {QUARANTINE} WHERE {where} ORDER BY id {order} LIMIT :limit")
    rows = connection.execute(statement, values | {"limit": limit}).mappings()
    return [KeptEntry.model_validate(dict(row)) for row in rows]


def delete(connection: Connection, ids: Sequence[int]) -> list[Any]:
    """Delete these rows; the ids of those that were there. Raises DBAPIError."""
    return list(connection.execute(_DELETE, {"ids": list(ids)}).scalars())


_COLUMNS = "id, at, specialization, user_id, reason, length, raw, encode(sha256, 'hex') AS sha256"

_DELETE = text(f"DELETE FROM {QUARANTINE} WHERE id = ANY(CAST(:ids AS bigint[])) RETURNING id")
