"""The waiting commands of a scope, in lanes and outbox, read page by page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.database.schema import OUTBOX
from levelq_core.domain.codec import IDENTITY_AT, MAGIC, STAMP_DIGITS, VERSION
from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import scan
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.protocol import Oversized
from levelq_core.operations.wording import count as counted
from levelq_core.operations.wording import one_line
from levelq_core.settings import Settings

GROUP = 200  # lanes in one call

Entry = bytes | Oversized


class Scope(NamedTuple):
    """Everything, or these specializations, or one user's lanes, or one command in them.

    `newest_ms`, `last_row`: without entries that were pushed later, and without later rows of the outbox.
    """

    specializations: Collection[str] | None = None
    user_id: int | None = None
    command_id: UUID | None = None
    newest_ms: int | None = None
    last_row: int | None = None

    def concerns(self, entry: Entry) -> bool:
        """Whether it includes this entry of one of its lanes."""
        if self.newest_ms is not None and _pushed_ms(entry) > self.newest_ms:
            return False
        if self.command_id is None:
            return True
        return isinstance(entry, bytes) and entry[IDENTITY_AT : IDENTITY_AT + 16] == self.command_id.bytes


def _pushed_ms(entry: Entry) -> int:
    """When an entry was pushed; 0 for what another program wrote without a time."""
    stamp = entry[:STAMP_DIGITS] if isinstance(entry, bytes) else b""
    return int(stamp) if stamp.isdigit() else 0


def is_newer(entry: Entry) -> bool:
    """Whether only a newer version of levelq can read an entry; its id is in the same position."""
    if not isinstance(entry, bytes) or entry[STAMP_DIGITS : STAMP_DIGITS + 2] != MAGIC:
        return False
    return entry[STAMP_DIGITS + 2 : STAMP_DIGITS + 3] > bytes([VERSION])


@dataclass
class Page:
    """A part of one lane. `skip`: how many newer entries the lane has; `older`: how many older ones.

    `removed`: how many of these entries the caller has removed, which it sets before it takes the next page.
    """

    user: bytes
    skip: int = 0
    entries: list[Entry] = field(default_factory=list)
    older: int = 0
    removed: int = 0


def pages(
    lanes: LaneEditor, settings: Settings, scope: Scope, unreadable: set[str]
) -> Iterator[tuple[Partition, list[Page]]]:
    """Yield the entries of each lane, from the newest to the oldest, in pages of a batch's size.

    Entries that are pushed after the first page are left out. Keys that are no lists are added to `unreadable`. Raises
    RedisError.
    """
    for partition, users in scan.grouped(_lanes(lanes, settings, scope), GROUP):
        pending = [Page(user) for user in users]
        while pending:
            wanted = [(page.user, page.skip) for page in pending]
            for page, (length, entries) in zip(pending, lanes.peek(partition, wanted), strict=True):
                if length < 0:
                    unreadable.add(lanes.keys.of(partition, f"lane:{page.user.decode(errors='backslashreplace')}"))
                page.entries, page.older = entries, length - page.skip - len(entries)
            read = [page for page in pending if page.entries]
            if read:
                yield partition, read
            pending = [Page(p.user, p.skip + len(p.entries) - p.removed) for p in pending if p.older > 0]


def _lanes(lanes: LaneEditor, settings: Settings, scope: Scope) -> Iterator[scan.Lane]:
    """One user's lane in every partition, or every lane that holds something."""
    wanted = scope.specializations
    if scope.user_id is not None:
        user = b"%d" % scope.user_id
        for partition in sorted(scan.partitions(lanes.redis, settings)):
            if wanted is None or partition.specialization in wanted:
                yield partition, user
        return
    seen: set[scan.Lane] = set()
    for lane in scan.lanes(lanes.redis, lanes.keys):
        if lane not in seen and (wanted is None or lane[0].specialization in wanted):
            seen.add(lane)
            yield lane


@dataclass
class Waiting:
    """How many commands wait, by specialization. One that the relay has pushed counts in lanes and in the outbox.

    `newest_ms`, `last_row`: the bounds of what was counted, for a Scope.
    """

    lanes: int = 0
    in_lanes: dict[str, int] = field(default_factory=dict)
    in_outbox: dict[str, int] = field(default_factory=dict)
    newer: int = 0
    unreadable: set[str] = field(default_factory=set)
    newest_ms: int = 0
    last_row: int = 0

    @property
    def total(self) -> int:
        """How many entries and rows."""
        return sum(self.in_lanes.values()) + sum(self.in_outbox.values())

    def only(self, scope: Scope) -> Scope:
        """The same scope without what came after this was counted: an operator has seen no more."""
        return scope._replace(newest_ms=self.newest_ms, last_row=self.last_row)

    def in_words(self) -> Iterator[str]:
        """What waits, one line for each specialization."""
        for name in sorted({*self.in_lanes, *self.in_outbox}):
            lane, rows = self.in_lanes.get(name, 0), self.in_outbox.get(name, 0)
            yield f"{name}: {counted(lane, 'command')} in lanes, {counted(rows, 'row')} in the outbox"

    def require_readable(self) -> None:
        """Raise ConfigurationError if some of it cannot be read by this version."""
        if self.newer:
            raise ConfigurationError(
                f"{self.newer} waiting commands were sent by a newer version of levelq: run this with that version"
            )
        if self.unreadable:
            keys = ", ".join(sorted(self.unreadable))
            raise ConfigurationError(f"{keys}: expected a list; other code wrote that key")


def left_lines(newer: int, unreadable: Collection[str]) -> Iterator[str]:
    """What cancelling leaves, one line each."""
    if newer:
        left = "left: a newer version of levelq sent them, and only that version can cancel them"
        yield f"{counted(newer, 'command')} {left}"
    for key in sorted(unreadable):
        yield f"left: {one_line(key)} is no list; other code wrote that key"


def count(connection: Connection, lanes: LaneEditor, settings: Settings, scope: Scope) -> Waiting:
    """Count what waits. Changes nothing. Raises RedisError, DBAPIError."""
    found = Waiting()
    holding: set[scan.Lane] = set()
    for partition, read in pages(lanes, settings, scope, found.unreadable):
        for page in read:
            wanted = [entry for entry in page.entries if scope.concerns(entry)]
            if wanted:
                holding.add((partition, page.user))
                found.newer += sum(map(is_newer, wanted))
                found.newest_ms = max(found.newest_ms, *map(_pushed_ms, wanted))
                name = partition.specialization
                found.in_lanes[name] = found.in_lanes.get(name, 0) + len(wanted)
    found.lanes = len(holding)
    for row in connection.execute(_COUNT, outbox_scope(scope) | {"last": scope.last_row}):
        found.in_outbox[row.specialization] = row.rows
        found.last_row = max(found.last_row, row.last)
    return found


def outbox_scope(scope: Scope) -> dict[str, Any]:
    """The parameters of IN_SCOPE."""
    names: Sequence[str] | None = None if scope.specializations is None else list(scope.specializations)
    return {"names": names, "user": scope.user_id, "command": scope.command_id}


# Which rows of the outbox a scope names; NULL: all.
IN_SCOPE = """
    (CAST(:names AS text[]) IS NULL OR specialization = ANY(CAST(:names AS text[])))
    AND (CAST(:user AS bigint) IS NULL OR user_id = :user)
    AND (CAST(:command AS uuid) IS NULL OR command_id = :command)
"""

_COUNT = text(f"""
    SELECT specialization, count(*) AS rows, max(id) AS last FROM {OUTBOX}
    WHERE {IN_SCOPE} AND (CAST(:last AS bigint) IS NULL OR id <= :last) GROUP BY specialization
""")
