"""Send quarantined entries to their lanes that this version can read, or delete entries from the quarantine.

An entry that is sent is a command under its own id. Its row is deleted in the transaction in which it was pushed; if
that breaks off, the next run pushes the same command once more, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.database.schema import QUARANTINE
from levelq_core.domain.commands import Command
from levelq_core.operations.queries import outcomes_of
from levelq_core.operations.readings.quarantine import QUARANTINED, KeptEntry

from . import lane_order
from .plan import Planned, Verdict
from .prospects import prospects
from .redriving import FORCE, Redriving

Return = Planned[KeptEntry]


class Returning(Redriving[KeptEntry]):
    """Returns quarantined entries to their lanes, or deletes them for good."""

    name, group, rows = "quarantined entry", "quarantine", QUARANTINED
    untried = "not tried: Redis did not answer, or the row is gone"

    @classmethod
    def _settle(cls, connection: Connection, ids: Sequence[int], how: Literal["retried", "discarded"]) -> set[int]:
        return set(connection.execute(_DELETE, {"ids": ids}).scalars())

    def _sent(self, became: Sequence[Return]) -> dict[str, object]:
        sent = [one for one in became if one.verdict == "sent"]
        named = [_named(one.source) | {"command_id": str(one.command_id)} for one in sent]
        return {"sent": len(sent), "entries": named}

    @classmethod
    def _discarded(cls, gone: Sequence[KeptEntry]) -> dict[str, object]:
        return {"entries": [_named(one) for one in gone]}

    def _examine(self, connection: Connection, found: Sequence[KeptEntry]) -> list[Return]:
        commands: dict[int, Command] = {}
        verdicts: dict[int, tuple[Verdict, str]] = {}
        for one in found:
            try:
                commands[one.id] = one.command()
            except ValueError as error:
                verdicts[one.id] = "refused", str(error)
        lanes, own = {one.lane for one in found if one.id in commands}, {c.command_id: 0 for c in commands.values()}
        orders = lane_order.read(connection, self._lanes, lanes, own)
        decided = outcomes_of(connection, [(command.command_id, None) for command in commands.values()])
        expected = prospects(connection, self._settings, list(commands.values()))
        kept = [one for one in found if one.id in commands]
        for one, outcome, prospect in zip(kept, decided, expected, strict=True):
            command_id = commands[one.id].command_id
            newer = None if self._force else orders[one.lane].newer_since(one.at, command_id)
            if outcome is not None:
                verdicts[one.id] = "refused", f"its command was decided: {outcome.status}; discard it"
            elif prospect is not None and prospect.never:
                verdicts[one.id] = "refused", prospect.why
            elif newer is not None:
                verdicts[one.id] = "refused", newer + FORCE
            else:
                verdicts[one.id] = "send", "this version can read it"
        return [_planned(one, commands.get(one.id), verdicts[one.id]) for one in found]


def _planned(one: KeptEntry, command: Command | None, verdict: tuple[Verdict, str]) -> Return:
    command_id: UUID | None = None if command is None else command.command_id
    return Return(source=one, command_id=command_id, verdict=verdict[0], why=verdict[1])


def _named(entry: KeptEntry) -> dict[str, object]:
    """What the audit keeps of an entry: nothing of its content."""
    return {"id": entry.id, "length": entry.length, "sha256": entry.sha256}


_DELETE = text(f"DELETE FROM {QUARANTINE} WHERE id = ANY(CAST(:ids AS bigint[])) RETURNING id")
