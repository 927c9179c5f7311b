"""The machine: random steps of drains and of misfortune, and the end of each example."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, multiple, precondition, rule, run_state_machine_as_test

from levelq_core.coupler.lane_batch import Parked
from levelq_worker.draining.batch import Batch
from tests.conformance.kit import PARTITION
from tests.stateful.producing import CONTENTS, Producing, users
from tests.stateful.reference import Entry, Taken
from tests.stateful.tables import readable
from tests.stateful.world import SETTINGS, at
from tests.support.commands import command_of

STEPS = 40  # of each example
# Whatever lasts, lasts a multiple of 20 s, so that no event of the reference comes within real seconds of another.
DELAY, CLAIM = 700.0, 4000.0
ASIDE_SECONDS, NEWER_SECONDS = 240.0, 300.0

PAGE = SETTINGS["batch_commands"]  # entries that a cancellation reads at once

drains = st.sampled_from("abc")


@dataclass
class Hand:
    """What one drain has in hand. `parked`: the lanes that its commit left waiting, None if it knows of none."""

    drain: str
    token: str
    taken: Taken
    batch: Batch
    parked: list[Parked] | None = None

    @property
    def users(self) -> list[int]:
        """Whose lanes it took."""
        return [user for user, _ in self.taken]

    def settled(self, user: int, entries: list[Entry]) -> tuple[float, list[Entry]]:
        """When a lane may be claimed again, and what the acknowledgement removes from it."""
        known = readable(entries)
        if self.parked is None:
            return 0, []
        if user in {lane.work.lane.user_id for lane in self.parked}:
            first = next(n for n, entry in enumerate(known) if entry.command is not None)
            return ASIDE_SECONDS, known[:first]
        return NEWER_SECONDS if known != entries else 0, known


class Machine(Producing):
    """All that can happen."""

    hands = Bundle("hands")

    # Drains

    @rule(target=hands, drain=drains, commands=st.integers(1, 8), meanwhile=st.none() | users)
    def claim(self, drain: str, commands: int, meanwhile: int | None) -> Hand | MultipleResults[Hand]:
        """Claim, or restore where claims are blocked. A push may come before the drain reads the reply."""
        self.tick()
        lanes, token = self.world.bench.lanes, self.world.token(self.claims)
        self.claims += 1
        if not self.reference.keys.filled:
            assert lanes.claim(PARTITION, drain, token, commands, restored_only=True).blocked
            self.reference.fill(self.marked())
            assert self.world.fill()
            return multiple()
        taken, retired = self.reference.claim(drain, token, commands)
        wake = self.reference.wake(commands)

        def push() -> None:
            if meanwhile is not None:
                self.push_entries(meanwhile, [self.new(meanwhile, CONTENTS[2])])

        with at("claim reply", push):
            claim = lanes.claim(PARTITION, drain, token, commands, restored_only=True)
        assert (claim.wake, claim.retired, claim.broken) == (wake, retired, [])
        assert [(int(user), len(entries)) for user, entries in claim.lanes] == [(u, len(e)) for u, e in taken]
        return Hand(drain, token, taken, Batch("PLAYER", claim)) if taken else multiple()

    @rule(hand=hands, stops_at=st.sampled_from([None, None, None, "begin", "ledger", "commit request", "commit reply"]))
    def apply(self, hand: Hand, stops_at: str | None) -> None:
        """Apply what is in hand, perhaps not for the first time."""
        self.tick()
        committed = self.decide(hand, stops_at)
        waiting = [Parked(w, "held", True) for w in hand.batch.lane_batches if len(w.decisions) < len(w.records)]
        if committed:
            self.commit(hand.taken, hand.batch.lane_batches, {lane.work.lane.user_id for lane in waiting})
        hand.parked = waiting if committed and stops_at != "commit reply" else None
        self.compare_tables()

    def decide(self, hand: Hand, stops_at: str | None) -> bool:
        """Run the transaction; whether it was committed."""
        return self.world.apply(hand.batch, stops_at)

    @rule(target=hands, hand=hands, other=drains, commands=st.integers(1, 8))
    def ack_late(self, hand: Hand, other: str, commands: int) -> Hand | MultipleResults[Hand]:
        """Another drain claims before the acknowledgement, or its repetition, arrives."""
        overtaking = self.claim(other, commands, None)
        self.ack(hand)
        return overtaking

    @rule(hand=hands)
    def ack(self, hand: Hand) -> None:
        """Acknowledge what the drain knows to be decided, or give it back; perhaps again, if the reply was lost."""
        self.tick()
        settled = [(user, *hand.settled(user, entries)) for user, entries in hand.taken]
        if hand.parked is None:
            given = [(b"%d" % user, 0, b"") for user in hand.users]
        else:
            given = hand.batch.acknowledgements(hand.parked, int(ASIDE_SECONDS * 1000) // 2)
        assert [delay for _, delay, _ in given] == [delay * 1000 for _, delay, _ in settled]
        before = {user: list(self.reference.keys.lanes[user]) for user in hand.users}
        reasons = hand.batch.reasons(hand.parked) if hand.parked else None
        removed = self.world.bench.lanes.ack(PARTITION, hand.token, given, reasons)
        assert removed == self.reference.ack(hand.token, settled)
        for user, count in zip(hand.users, removed, strict=True):
            assert all(self.tables.decided(user, entry) for entry in before[user][: max(0, count)])

    @rule(target=hands, drain=drains, commands=st.integers(1, 8))
    def serve(self, drain: str, commands: int) -> Hand | MultipleResults[Hand]:
        """All of it, as it should be; whether the last reply arrived is another matter."""
        hand = self.claim(drain, commands, None)
        if isinstance(hand, Hand):
            self.apply(hand, None)
            self.ack(hand)
        return hand

    @rule(hand=hands)
    def renew(self, hand: Hand) -> None:
        self.tick()
        names = [b"%d" % user for user in hand.users]
        renewed = self.world.bench.lanes.renew(PARTITION, hand.drain, hand.token, names)
        assert renewed == self.reference.renew(hand.drain, hand.token, hand.users)

    @rule(drain=st.none() | drains)
    def leave_or_sweep(self, drain: str | None) -> None:
        """A drain ends, or a sweep looks for what dead ones left."""
        self.tick()
        if drain is None:
            assert self.world.bench.lanes.sweep(PARTITION) == self.reference.sweep()
        else:
            assert self.world.bench.lanes.yield_(PARTITION, drain) == self.reference.leave(drain)

    # An operator

    @rule(user=users, which=st.none() | st.integers(0, 5))
    def cancel(self, user: int, which: int | None) -> None:
        """Take back all that waits of a user, or one command; drains may have any of it in hand."""
        self.tick()
        lane = self.reference.keys.lanes[user]
        ids = [entry.command.command_id for entry in lane if entry.command is not None]
        if which is not None and not ids:
            return
        only = None if which is None else ids[which % len(ids)]
        self.world.cancel(user, only)
        pages = [lane[max(0, end - PAGE) : end] for end in range(len(lane), 0, -PAGE)]  # the newest first
        chosen = [e for page in pages for e in page if not e.newer and (only is None or e.payload[4:20] == only.bytes)]
        self.tables.cancel(user, chosen, only)
        if pages:  # else there is no lane to look into, though a push that broke off may have made it ready
            self.reference.withdraw(user, chosen)
            self.reference.sweep()
        self.compare_tables()

    # Misfortune

    @precondition(
        lambda self: self.reference.keys.claimed or len(self.reference.due()) < len(self.reference.keys.ready)
    )
    @rule(seconds=st.sampled_from([DELAY, CLAIM]))
    def pass_time(self, seconds: float) -> None:
        """Delays or claims run out."""
        self.tick(seconds)

    @precondition(lambda self: self.rarely("hold"))
    @rule(user=users)
    def hold(self, user: int) -> None:
        """Foreign code locks a row, or ends its transaction if it has one."""
        self.tick()
        self.steps["hold"] += 1
        if self.held is None:
            self.world.hold(user)
            self.held = user
        else:
            self.world.let_go()
            self.held = None

    @precondition(lambda self: self.rarely("lose"))
    @rule(everything=st.booleans(), then=users)
    def lose(self, everything: bool, then: int) -> None:
        """FLUSHALL, then a push; or a replica falls behind from now on, or is promoted."""
        self.tick()
        self.steps["lose"] += 1
        if not everything and self.kept is None:
            self.kept = self.reference.clock, self.reference.remember(), self.world.remember()
            return
        before = self.in_lanes()
        if everything:
            self.reference.wipe()
            self.world.bench.redis.flushall()
        elif self.kept is not None:
            since, keys, kept = self.kept
            self.reference.roll_back(keys)
            self.world.roll_back(kept, self.reference.clock - since)
        self.kept = None
        self.lost |= before - self.in_lanes()
        self.push_entries(then, [self.new(then, CONTENTS[2])])

    # The end

    def teardown(self) -> None:
        """Real workers drain what is left, and nothing that was accepted is missing."""
        self.world.let_go()
        if not self.sound:
            return
        self.held = None
        for user, lane in self.reference.keys.lanes.items():
            self.tables.quarantine |= {(user, e.payload) for e in lane if e.command is None and not e.newer}
        for _ in range(60):
            self.work()
            seen = self.world.look()
            if not seen.ready and not seen.claimed and not self.tables.outbox:
                break
        assert (any(seen.lanes.values()), seen.ready, seen.claimed, self.tables.outbox) == (False, [], {}, {})
        self.compare_tables()
        assert self.accepted - self.lost <= self.tables.model.ledger.keys()

    def work(self) -> None:
        """One round of a relay that has just taken over, of a worker of a newer version, and of a drain."""
        self.world.replace_relay()
        self.world.poll()
        self.world.take_newer()
        for works in self.world.drain():
            taken = [(w.lane.user_id, [Entry(b"", command_of(w.lane, record)) for record in w.records]) for w in works]
            self.commit(taken, works, set())
        self.world.bench.pass_time(CLAIM)


def run(make: Callable[[], Machine], number: int, *, examples: int, phases: Collection[Phase]) -> None:
    """This number of random machines, the same ones for the same number."""
    run_state_machine_as_test(
        seed(number)(make),  # type: ignore[arg-type]  # a factory will do
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            phases=phases,
            deadline=None,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
