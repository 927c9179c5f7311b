"""What producers and the outbox do to the lanes, and what may lie in them."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.domain.codec import VERSION, encode
from tests.stateful.comparing import TICK, Compared
from tests.stateful.reference import Entry
from tests.stateful.world import USERS


def _up(xp: int, **fields: Any) -> LevelUp:
    return LevelUp(user_id=1, specialization="PLAYER", xp_gained=xp, **fields)


def _set(level: int, **fields: Any) -> SetLevel:
    return SetLevel(user_id=1, specialization="PLAYER", new_level=level, **fields)


CONTENTS: list[Command] = [
    *map(_up, (0, 1, 700, 1000, 4999, 2**31 - 1)),
    _up(5, sessions_completed=3, projects_completed=1, reason="earned", advanced_by=7),
    _up(1, theory_hours=3),
    _set(3),
    _set(1, xp_change=-1),
    _set(2, xp_change=300, sessions_change=-1),
    _set(9),
    SyncLevels(user_id=1, specialization="PLAYER", source="progress"),
    SyncLevels(user_id=1, specialization="PLAYER", source="license"),
    Adjust(user_id=1, specialization="PLAYER", xp_change=-300),
    Adjust(user_id=1, specialization="PLAYER", xp_change=-300, sessions_change=1, level="earned"),
    Reset(user_id=1, specialization="PLAYER", total_xp=700),
    Reset(user_id=1, specialization="PLAYER", completed_sessions=2, level=3, reason="season's end", advanced_by=7),
]
users = st.sampled_from(USERS)
contents = st.sampled_from(range(len(CONTENTS)))
which = st.integers(0, 40)


class Producing(Compared):
    """Sends, sends again, pushes malformed entries, dies while sending, and relays."""

    @rule(user=users, wanted=st.lists(contents, min_size=1, max_size=3))
    def push(self, user: int, wanted: list[int]) -> None:
        self.tick()
        self.push_entries(user, [self.new(user, CONTENTS[n]) for n in wanted])

    @rule(user=users, how=st.sampled_from(["same", "same", "other content", "other lane"]), which=which, other=contents)
    def push_again(self, user: int, how: str, which: int, other: int) -> None:
        """An id that was used before."""
        self.tick()
        command = self.old(which)
        if command is None:
            return
        if how == "other content":
            command = CONTENTS[other].model_copy(update={"user_id": command.user_id, "command_id": command.command_id})
        elif how == "other lane":
            command = command.model_copy(update={"user_id": user})
        self.push_entries(command.user_id, [Entry(encode(command), command)])

    @rule(user=users, kind=st.sampled_from(["text", "cut", "too long", "of another lane", "newer", "newer"]))
    def push_malformed(self, user: int, kind: str) -> None:
        """What a worker cannot read, or only one of a newer version."""
        self.tick()
        payload = self.new(user % len(USERS) + 1, CONTENTS[0]).payload
        raw = {
            "text": b"garbage %d" % len(self.made),
            "cut": payload[:40],
            "too long": b"%600d" % len(self.made),
            "of another lane": payload,
            "newer": payload[:2] + bytes([VERSION + 1]) + payload[3:],
        }
        self.push_entries(user, [Entry(raw[kind], newer=kind == "newer")])

    @precondition(lambda self: self.rarely("push_breaks_off"))
    @rule(user=users, before=st.sampled_from(["ready", "count", "append", "reserve"]))
    def push_breaks_off(self, user: int, before: str) -> None:
        """The script dies; what it has written stays."""
        self.tick()
        self.steps["push_breaks_off"] += 1
        entry = self.new(user, CONTENTS[3])
        broken = self.world.push_breaks_off(user, entry.payload, before)
        assert broken == self.reference.push_breaks_off(user, entry, before)

    @rule(user=users, wanted=st.lists(contents, min_size=1, max_size=3))
    def store(self, user: int, wanted: list[int]) -> None:
        """New commands go into the outbox."""
        self.tick()
        for n in wanted:
            self.store_entry(self.new(user, CONTENTS[n]))

    @precondition(lambda self: self.made)
    @rule(which=which)
    def store_again(self, which: int) -> None:
        """One that a producer sent, that the outbox holds already, or that was decided."""
        self.tick()
        command = self.old(which)
        assert command is not None
        self.store_entry(Entry(encode(command), command))

    @precondition(lambda self: self.tables.outbox)
    @rule(lost=st.sampled_from([None, None, None, "request", "reply"]))
    def relay(self, lost: str | None) -> None:
        """One round of the relay. When it pushes is its own affair; never may it push ahead of what may be missing."""
        self.tick()
        marks = self.world.marks()
        if not self.reference.keys.filled:
            self.reference.fill(self.marked())
        self.world.poll(lost)
        seen = self.world.look()
        for user in sorted(USERS, key=lambda user: seen.ready.index(user) if user in seen.ready else 0):
            lane = self.reference.keys.lanes[user]
            rows = [(entry, marks[id_]) for id_, (of, entry) in self.tables.outbox.items() if of == user]
            pushed, present = len(seen.lanes[user]) - len(lane), {entry.identity for entry in lane}
            if lane or user in self.reference.keys.claimed:
                assert not pushed or all(entry.identity in present for entry, marked in rows if marked)
                rows = [(entry, marked) for entry, marked in rows if not marked]
            self.reference.append(user, [entry for entry, _ in rows[:pushed]])
            self.reference.clock += TICK / 10  # it may have taken several calls, so only Redis knows the order of lanes
        if seen.waking:
            self.reference.wake()
