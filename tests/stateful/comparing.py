"""Both sides side by side: what was made so far, and what must be equal."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine, invariant

from levelq_core import Command
from levelq_core.coupler.lane_batch import LaneBatch
from levelq_core.domain.codec import encode
from levelq_core.domain.outcome import outcome
from tests.stateful.reference import Entry, Keys, Reference, Taken
from tests.stateful.tables import Tables
from tests.stateful.world import USERS, World
from tests.support.coupler import comparable, predicted
from tests.support.model import Prediction

TICK = 0.01


class Compared(RuleBasedStateMachine):
    """A world and its reference; `sound` while they agree."""

    def __init__(self, world: World) -> None:
        super().__init__()
        world.reset()
        self.world = world
        self.reference = Reference(world.settings, USERS)
        self.tables = Tables()
        self.made: list[Command] = []
        self.accepted: set[UUID] = set()
        self.lost: set[UUID] = set()
        self.claims = 0
        self.held: int | None = None
        self.kept: tuple[float, Keys, dict[str, Any]] | None = None
        self.steps: Counter[str] = Counter()
        self.sound = True

    def rarely(self, step: str) -> bool:
        """At most three times in an example: what upsets everything would leave little else to happen."""
        return self.steps[step] < 3

    def tick(self, seconds: float = TICK) -> None:
        """A moment passes before each step, so that no two happen at the same time."""
        self.sound = False
        self.reference.clock += seconds
        self.world.bench.pass_time(seconds)

    def new(self, user: int, content: Command) -> Entry:
        """A command with an id of its own, as it lies in a lane."""
        command = content.model_copy(update={"user_id": user, "command_id": UUID(int=len(self.made) + 1)})
        self.made.append(command)
        return Entry(encode(command), command)

    def old(self, which: int) -> Command | None:
        """Any of the commands that were made, whatever became of it."""
        return self.made[which % len(self.made)] if self.made else None

    def push_entries(self, user: int, entries: Sequence[Entry]) -> None:
        """Push, and see what is taken and whether a drain must be woken."""
        answer = self.world.bench.push(user, *(entry.payload for entry in entries))
        taken, why = self.reference.push(user, entries)
        assert (answer.lanes, answer.wake) == ([(taken, why)], self.reference.wake())
        self.accepted |= {entry.command.command_id for entry in entries[:taken] if entry.command is not None}

    def store_entry(self, entry: Entry) -> None:
        """Commit a command to the outbox, where its id may be already."""
        assert entry.command is not None
        assert self.world.store(entry.command) == (entry.command.command_id not in self.tables.outbox)
        self.tables.store(entry.command, entry)

    def in_lanes(self) -> set[UUID]:
        """The commands that Redis holds."""
        lanes = self.reference.keys.lanes.values()
        return {entry.command.command_id for lane in lanes for entry in lane if entry.command is not None}

    def marked(self) -> list[tuple[int, Entry]]:
        """What the outbox has and Redis may have had."""
        marks = self.world.marks()
        return [row for command_id, row in self.tables.outbox.items() if marks[command_id]]

    def commit(self, taken: Taken, works: Sequence[LaneBatch], parked: set[int]) -> None:
        """A batch was committed: every outcome is as it must be, and only what foreign code holds was parked."""
        assert parked <= {self.held}
        if self.held in {work.lane.user_id for work in works} and (self.held, "PLAYER") in self.tables.model.progress:
            assert parked == {self.held}
        outcomes = self.tables.commit(taken, parked)
        assert {work.lane.user_id: decided(work) for work in works if work.lane.user_id not in parked} == outcomes

    @invariant()
    def redis_holds_what_it_must(self) -> None:
        """Every key; and no lane is in both sets, or in none."""
        keys, seen = self.reference.keys, self.world.look()
        assert seen.lanes == {user: [entry.payload for entry in lane] for user, lane in keys.lanes.items()}
        for user, lane in seen.lanes.items():
            assert not (user in seen.ready and user in seen.claimed)
            assert not lane or user in seen.ready or user in seen.claimed
        assert seen.ready == self.reference.in_line()
        assert seen.claimed == {user: claim.token for user, claim in keys.claimed.items()}
        assert seen.drains == set(keys.drains)
        assert seen.waking == (keys.wake_until > self.reference.clock)
        assert (seen.counted, seen.filled) == (keys.count, keys.filled)
        self.sound = True

    def compare_tables(self) -> None:
        """Every row: the three tables, the ledger in the order of effect, the outbox, the quarantine."""
        written, tables = self.world.written(), self.tables
        assert written.tables == predicted(tables.model)
        ledger: dict[int, list[tuple[UUID, str, str | None]]] = {}
        for command_id, row in tables.model.ledger.items():
            decision = command_id, row["outcome"]["status"], row["outcome"]["error"]
            ledger.setdefault(row["command"].user_id, []).append(decision)
        assert written.ledger == ledger
        assert written.outbox == list(tables.outbox)
        assert written.quarantine == sorted(tables.quarantine)


def decided(work: LaneBatch) -> list[Prediction]:
    """The outcomes of a lane's commands, in order."""
    return [comparable(outcome(work.lane, *both)) for both in zip(work.records, work.decisions, strict=True)]
