"""Any interleaving of pushes, claims, acknowledgements and deaths, against a dictionary of lists."""

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conformance.kit import Bench, Benches, identity, payload

CLAIM, DELAY = 600, 60
USERS = st.integers(1, 4)
DRAINS = st.sampled_from("abc")


@dataclass
class Lane:
    """What a lane must hold, who holds it and until when, and from when it may be claimed."""

    entries: list[bytes] = field(default_factory=list)
    token: str | None = None
    deadline: float = 0
    not_before: float = 0


class Machine(RuleBasedStateMachine):
    """The lane protocol; `clock` counts the seconds that were made to pass."""

    claims = Bundle("claims")

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        bench.clear()
        self.bench = bench
        self.lanes = {user: Lane() for user in range(1, 5)}
        self.clock = 0.0
        self.number = 0
        self.held: dict[str, dict[int, list[bytes]]] = {}

    def due(self) -> list[int]:
        return [u for u, l in self.lanes.items() if l.entries and l.token is None and l.not_before <= self.clock]

    def return_expired(self) -> None:
        for lane in self.lanes.values():
            if lane.token is not None and lane.deadline <= self.clock:
                lane.token, lane.not_before = None, 0

    def somebody_comes(self) -> None:
        """Whoever looked for work just now left a live drain or a wake-up behind if a lane is due."""
        if self.due():
            assert "wake" in self.bench.names() or self.bench.scores("drains")

    @rule(user=USERS, count=st.integers(1, 4))
    def push(self, user: int, count: int) -> None:
        entries = [payload(user, self.number + n) for n in range(count)]
        self.number += count
        answer = self.bench.push(user, *entries)
        assert answer.lanes == [(count, "")]
        lane = self.lanes[user]
        if not lane.entries and lane.token is None:
            lane.not_before = 0
        lane.entries += entries
        if not answer.wake and self.due():
            assert "wake" in self.bench.names() or self.bench.scores("drains")

    @rule(target=claims, drain=DRAINS, commands=st.integers(1, 6))
    def claim(self, drain: str, commands: int) -> str:
        self.return_expired()
        due = self.due()
        members = (*self.bench.members("ready"), *self.bench.members("claimed"))
        emptied = any(not self.lanes[user].entries for user in members)  # while claimed: they count as lanes, and go
        token = f"token-{len(self.held)}"
        claim = self.bench.claim(token, commands, drain)
        held = {int(user): [e[13:] for e in entries if isinstance(e, bytes)] for user, entries in claim.lanes}
        assert set(held) <= set(due)
        assert sum(map(len, held.values())) <= commands
        assert emptied or bool(held) is bool(due)
        assert not (claim.retired and due) and (emptied or claim.retired is not bool(due))
        assert claim.broken == []
        for user, entries in held.items():
            lane = self.lanes[user]
            assert entries == lane.entries[: len(entries)] != []
            lane.token, lane.deadline = token, self.clock + CLAIM
        self.held[token] = held
        self.somebody_comes()
        return token

    @rule(token=claims, decided=st.integers(0, 6), delay=st.sampled_from((0, 0, DELAY)), doubt=st.booleans())
    def ack(self, token: str, decided: int, delay: int, doubt: bool) -> None:
        """Acknowledge, for the first, the second or the last time, the first `decided` of each lane."""
        for user, entries in self.held[token].items():
            identities = [identity(bytes(13) + entry) for entry in entries[:decided]]
            if doubt:
                identities.insert(min(1, len(identities)), bytes(32))  # one that is not there ends the removal
            removed = self.bench.ack(token, user, *identities, delay_ms=delay * 1000)
            lane = self.lanes[user]
            if lane.token != token:
                assert removed == -1
                continue
            expected, most = 0, min(decided, len(entries), 1 if doubt else 99)
            while expected < most and lane.entries[expected : expected + 1] == entries[expected : expected + 1]:
                expected += 1
            assert removed == expected
            del lane.entries[:removed]
            lane.token, lane.not_before = None, self.clock + delay if lane.entries else 0

    @rule(user=USERS, which=st.sets(st.integers(0, 5)))
    def withdraw(self, user: int, which: set[int]) -> None:
        """Remove some entries of a lane wherever they stand, and one that is not there."""
        lane = self.lanes[user]
        chosen = [entry for n, entry in enumerate(lane.entries) if n in which]
        assert self.bench.withdraw(user, *(identity(bytes(13) + entry) for entry in chosen), bytes(32)) == len(chosen)
        if 0 in which and lane.token is None:
            lane.not_before = 0
        lane.entries = [entry for entry in lane.entries if entry not in chosen]

    @rule(token=claims, drain=DRAINS)
    def renew(self, token: str, drain: str) -> None:
        users = list(self.held[token])
        ours = [self.lanes[user] for user in users if self.lanes[user].token == token]
        if users:
            renewed = self.bench.lanes.renew(self.bench.partition, drain, token, [b"%d" % user for user in users])
            assert renewed == len(ours)
        for lane in ours:
            lane.deadline = self.clock + CLAIM

    @rule(drain=DRAINS)
    def leave(self, drain: str) -> None:
        self.bench.lanes.yield_(self.bench.partition, drain)
        self.somebody_comes()

    @rule()
    def sweep(self) -> None:
        self.return_expired()
        self.bench.lanes.sweep(self.bench.partition)
        self.somebody_comes()

    # One second more than a delay or a claim: real time passes, too, and must not decide.
    @rule(seconds=st.sampled_from((DELAY + 1, CLAIM + 1)))
    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        self.bench.pass_time(seconds)

    @invariant()
    def every_lane_is_where_it_must_be(self) -> None:
        b = self.bench
        b.check()
        ready, claimed, tokens = b.members("ready"), b.members("claimed"), b.tokens()
        for user, lane in self.lanes.items():
            assert b.payloads(user) == lane.entries
            assert (user in claimed) is (lane.token is not None)
            if lane.entries:
                assert (user in ready) is (lane.token is None)
            assert tokens.get(b"%d" % user, b"").decode() == (lane.token or "")
        assert all(key.decode().startswith(b.key("")) for key in b.all_keys())

    def teardown(self) -> None:
        """Whatever happened before: what is left is drained in order, and then nothing is there."""
        b = self.bench
        b.pass_time(2 * CLAIM)
        while not (claim := b.claim("last", drain="last")).retired:
            for user, entries in claim.lanes:
                lane = self.lanes[int(user)]
                assert [e[13:] for e in entries if isinstance(e, bytes)] == lane.entries[: len(entries)]
                assert b.ack("last", int(user), *map(identity, entries)) == len(entries)
                del lane.entries[: len(entries)]
        assert not any(lane.entries for lane in self.lanes.values())
        assert b.names() == set()


class Interleaving:
    """No order of events loses, doubles or reorders a command."""

    def test_any_interleaving_keeps_order_and_loses_nothing(self, bench: Benches) -> None:
        b = bench(batch_lanes=3, lane_commands=3)
        run_state_machine_as_test(
            lambda: Machine(b),  # type: ignore[arg-type]  # a factory will do
            settings=settings(
                max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
            ),
        )
