"""Send quarantined entries to their lanes that this version can read, or delete entries from the quarantine.

An entry that is sent is a command under its own id. Its row is deleted in the transaction in which it was pushed; if
that breaks off, the next run pushes the same command once more, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import QUARANTINE, schema_of
from levelq_core.domain.commands import Command
from levelq_core.errors import QueueUnavailable
from levelq_core.lanes.client import Lanes
from levelq_core.operations.identity import require_bound
from levelq_core.operations.queries import outcomes_of
from levelq_core.operations.readings.quarantine import KeptEntry, delete, read
from levelq_core.operations.readings.selection import Selection
from levelq_core.settings import Settings

from . import lane_order
from .plan import PAGE, Plan, Planned, Send, Verdict, audit_line, pages, set_limits
from .prospects import prospects
from .rejected import FORCE

Return = Planned[KeptEntry]


class Returning:
    """Returns quarantined entries to their lanes. Raises as Retrying does, and takes the same arguments."""

    def __init__(
        self, engine: Engine, lanes: Lanes, settings: Settings, *, force: bool = False, actor: str | None = None
    ) -> None:
        self._engine = engine
        self._lanes = lanes
        self._settings = settings
        self._force = force
        self._actor = actor

    def look(self, selection: Selection, limit: int = PAGE) -> Plan[KeptEntry]:
        """What would be sent of the oldest `limit` of a selection. Changes nothing."""
        with self._engine.connect() as connection:
            schema_of(connection)
            require_bound(connection, self._lanes)
            found = read(connection, selection, limit + 1, oldest_first=True)
            return Plan(self._examine(connection, found[:limit]), len(found) > limit)

    def run(self, plan: Plan[KeptEntry], send: Send) -> Plan[KeptEntry]:
        """Send the entries of a plan, each examined once more; what became of them."""
        chosen = plan.of("send")
        line = audit_line("quarantine retry", (one.source.lane for one in chosen), self._actor)
        became: dict[int, Return] = {}
        for page in pages(chosen):
            with self._engine.begin() as connection:
                set_limits(connection, self._settings)
                connection.execute(_LOCK, {"ids": [one.source.id for one in page]})
                found = self._examine(connection, read(connection, _ids(page), len(page), oldest_first=True))
                sending = [one for one in found if one.verdict == "send"]
                errors = send([one.source.command() for one in sending]) if sending else []
                became |= {one.source.id: one for one in found}
                became |= {one.source.id: one.after(error) for one, error in zip(sending, errors, strict=True)}
                sent = [one for one in became.values() if one.verdict == "sent"]
                delete(connection, [one.source.id for one in sent])
                if sent:
                    entries = [_named(one.source) | {"command_id": str(one.command_id)} for one in sent]
                    line.write(connection, {"sent": len(sent), "force": self._force, "entries": entries})
            if any(isinstance(error, QueueUnavailable) for error in errors):
                break
        gone = {"verdict": "left", "why": "not tried: Redis did not answer, or the row is gone"}
        for one in chosen:
            became.setdefault(one.source.id, one.model_copy(update=gone))
        return Plan([became.get(one.source.id, one) for one in plan.entries], plan.more)

    def _examine(self, connection: Connection, found: Sequence[KeptEntry]) -> list[Return]:
        """What to do with each of these entries, oldest first."""
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


def discard(engine: Engine, settings: Settings, entries: Sequence[KeptEntry], *, actor: str | None = None) -> int:
    """Delete entries from the quarantine for good; returns how many. Raises DBAPIError."""
    line = audit_line("quarantine discard", (one.lane for one in entries), actor)
    gone: list[dict[str, object]] = []
    for page in pages(entries):
        with engine.begin() as connection:
            set_limits(connection, settings)
            there = set(delete(connection, [one.id for one in page]))
            gone += [_named(one) for one in page if one.id in there]
            if there:
                line.write(connection, {"discarded": len(gone), "entries": gone})
    return len(gone)


def _planned(one: KeptEntry, command: Command | None, verdict: tuple[Verdict, str]) -> Return:
    command_id: UUID | None = None if command is None else command.command_id
    return Return(source=one, command_id=command_id, verdict=verdict[0], why=verdict[1])


def _ids(page: Sequence[Return]) -> Selection:
    return Selection(tuple(one.source.id for one in page))


def _named(entry: KeptEntry) -> dict[str, object]:
    """What the audit keeps of an entry: nothing of its content."""
    return {"id": entry.id, "length": entry.length, "sha256": entry.sha256}


_LOCK = text(f"SELECT FROM {QUARANTINE} WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE")
