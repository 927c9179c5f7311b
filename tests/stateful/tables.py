"""What PostgreSQL must hold: the independent model of the three tables and the ledger, the outbox, the quarantine."""

from dataclasses import dataclass, field
from uuid import UUID

from levelq_core import Command
from tests.stateful.reference import Entry, Taken
from tests.support.model import Model, Prediction


def readable(entries: list[Entry]) -> list[Entry]:
    """What a worker can read: all in front of what a newer version wrote."""
    newer = [n for n, entry in enumerate(entries) if entry.newer]
    return entries[: newer[0]] if newer else entries


@dataclass
class Tables:
    """One database."""

    model: Model = field(default_factory=Model)
    outbox: dict[UUID, tuple[int, Entry]] = field(default_factory=dict)
    quarantine: set[tuple[int, bytes]] = field(default_factory=set)
    refused: set[tuple[int, UUID]] = field(default_factory=set)

    def store(self, command: Command, entry: Entry) -> None:
        """A row of the outbox; an id that is there already is left as it is."""
        self.outbox.setdefault(command.command_id, (command.user_id, entry))

    def commit(self, taken: Taken, parked: set[int]) -> dict[int, list[Prediction]]:
        """One batch, its lanes in the order of the claim; the outcomes of each lane that is not parked.

        An id that comes in several lanes belongs to the first of them, also if that one is parked.
        """
        outcomes: dict[int, list[Prediction]] = {}
        reserved: dict[UUID, int] = {}
        for user, entries in taken:
            known = readable(entries)
            self.quarantine |= {(user, entry.payload) for entry in known if entry.command is None}
            commands = [entry.command for entry in known if entry.command is not None]
            if user in parked:
                for command in commands:
                    reserved.setdefault(command.command_id, user)
            elif commands:
                outcomes[user] = [self._decide(command, reserved) for command in commands]
        return outcomes

    def _decide(self, command: Command, reserved: dict[UUID, int]) -> Prediction:
        known = command.command_id in self.model.ledger
        if not known and reserved.get(command.command_id, command.user_id) != command.user_id:
            self.refused.add((command.user_id, command.command_id))
            return dict.fromkeys(("from_level", "to_level", "before", "after")) | {
                "status": "rejected",
                "error": "conflict",
                "duplicate": False,
            }
        outcome = self.model.apply(command)
        self.outbox.pop(command.command_id, None)
        return outcome

    def cancel(self, user: int, entries: list[Entry], only: UUID | None) -> None:
        """What an operator takes back: rows of the user's in the outbox, then these entries of the lane."""
        for command_id, (of, entry) in list(self.outbox.items()):
            if of == user and only in (None, command_id):
                assert entry.command is not None
                self.model.cancel(entry.command)
                del self.outbox[command_id]
        self.quarantine |= {(user, entry.payload) for entry in entries if entry.command is None}
        for entry in entries:
            if entry.command is not None:
                self.model.cancel(entry.command)
                self.outbox.pop(entry.command.command_id, None)

    def decided(self, user: int, entry: Entry) -> bool:
        """Whether an entry may be removed: it is in the quarantine, or its id is in the ledger or another lane's."""
        if entry.command is None:
            return (user, entry.payload) in self.quarantine
        command_id = entry.command.command_id
        return command_id in self.model.ledger or (user, command_id) in self.refused
