"""A million damaged and forged entries through decode and fold: refused in words, or exactly what was written."""

import tracemalloc
from collections import Counter
from functools import partial
from random import Random

import psutil
import pytest

from levelq_core import Catalog
from levelq_core.domain.codec import MalformedEntry, NewerVersion, decode, record_of
from levelq_core.domain.record import Lane, Record
from levelq_core.domain.rules import Decision, Limits, State, decide
from tests.fuzz.mutating import BODY_AT, DAMAGE, Content, Written, content, corpus, distort, forge
from tests.support.commands import command_of

DAMAGED, FORGED = 900_000, 200_000
TRACKS = Catalog.default()
# Levelq's own columns, and those of an application from long ago.
LIMITS = (Limits(), Limits(totals=(2**31 - 1,) * 5, user_id=2**31 - 1, advanced_by=2**31 - 1, reason=255))


class Fold:
    """Each lane's state as if everything that decodes were applied, over rows in any condition."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._states: dict[Lane, State] = {}
        self.decided: Counter[str] = Counter()

    def __call__(self, lane: Lane, record: Record) -> None:
        rng = self._rng
        limits = LIMITS[rng.random() < 0.5]
        state = self._states.get(lane) if rng.random() < 0.9 else None
        if state is None or max(state[3:]) > limits.totals[0]:
            state = _rows(rng, limits)
        decision = decide(state, record, TRACKS[lane.specialization], limits)
        _check(state, decision, limits)
        self._states[lane] = decision.after or state
        self.decided[decision.error or "applied"] += 1


def _rows(rng: Random, limits: Limits) -> State:
    """Two rows, or one, or none; in step or not; levels beyond the top; totals anywhere in their columns."""
    progress, license_ = rng.choice(((0, 0), (1, 1), (0, 3), (4, 0), (2, 5), (8, 8), (12, 12)))
    highest = license_ + rng.choice((0, 2)) if license_ else 0
    totals = [rng.choice((0, rng.randrange(100_000), most)) if progress else 0 for most in limits.totals]
    return (progress, license_, highest, *totals)  # type: ignore[return-value]


def _check(state: State, decision: Decision, limits: Limits) -> None:
    """A decision stays within the columns; applied, the levels are equal; refused, nothing changed."""
    after = decision.after
    if decision.error is not None:
        assert after is None or after == state
        assert decision.message and "\n" not in decision.message
        return
    assert after is not None
    progress, license_, highest, *totals = after
    assert 1 <= progress == license_ <= highest <= limits.level
    assert highest >= state[2]
    assert all(0 <= total <= most for total, most in zip(totals, limits.totals, strict=True))


def read(entry: bytes, salt: bytes, seen: Counter[str]) -> Record | None:
    """Decode, and count what came of it. Whatever else is raised ends the test."""
    try:
        record = decode(entry, salt)
    except MalformedEntry as error:
        seen["malformed"] += 1
        assert len(str(error)) < 200
    except NewerVersion:
        seen["newer"] += 1
    else:
        seen["decoded"] += 1
        return record
    return None


def damage(rng: Random, written: list[Written], times: int) -> Counter[str]:
    """Damaged entries: what still decodes is, but for stamp, flags and id, an entry written for that lane."""
    known: set[tuple[bytes, Content]] = {(one.salt, one.content) for one in written}
    fold, seen, many = Fold(rng), Counter[str](), len(written)
    for _ in range(times):
        lane, salt, entry, _ = written[int(rng.random() * many)]
        damaged = DAMAGE[int(rng.random() * len(DAMAGE))](rng, entry, written[int(rng.random() * many)].entry)
        record = read(damaged, salt, seen)
        if record is not None:
            assert (salt, content(record)) in known, damaged.hex()
            fold(lane, record)
    print(f"damaged: {dict(seen)}, folded: {dict(fold.decided)}")
    return seen


def test_damaged_entries_are_refused_or_are_what_was_written(rng: Random) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    seen = damage(rng, corpus(rng), DAMAGED)
    assert seen.total() == DAMAGED
    assert min(seen["decoded"], seen["newer"], seen["malformed"]) > DAMAGED / 1000
    assert process.memory_info().rss - before < 64 * 2**20


def test_forged_entries_are_refused_or_are_valid_commands(rng: Random) -> None:
    """The digest is no signature: a program that may write to Redis may write commands, but only valid ones."""
    written = corpus(rng)
    fold, seen = Fold(rng), Counter[str]()
    for _ in range(FORGED):
        lane, salt, entry, _ = rng.choice(written)
        other = rng.choice(written).entry[BODY_AT:]
        record = read(forge(partial(distort, rng, other), salt, entry), salt, seen)
        if record is not None:
            command = command_of(lane, record)
            assert record_of(command)[:11] == record[:11]
            fold(lane, record)
    print(f"forged: {dict(seen)}, folded: {dict(fold.decided)}")
    assert min(seen["decoded"], seen["malformed"]) > FORGED / 100
    assert min(fold.decided["applied"], fold.decided["validation_error"]) > FORGED / 1000


def test_decoding_keeps_nothing(rng: Random) -> None:
    written = corpus(rng)
    damage(rng, written, 1_000)
    tracemalloc.start()
    try:
        damage(rng, written, 20_000)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 2**19 and peak < 2**21


@pytest.mark.parametrize("size", [0, 1, 13, 15, 16, 81, 82, 4096, 2**22])
def test_bytes_of_any_size_are_refused(rng: Random, size: int) -> None:
    for raw in (bytes(size), b"\xff" * size, b"9" * size, rng.randbytes(size)):
        with pytest.raises(MalformedEntry):
            decode(raw, Lane("PLAYER", 1).salt)
