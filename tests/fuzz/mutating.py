"""Damaged, mixed and forged entries: what a lane may hold besides what producers wrote."""

from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Literal, NamedTuple

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.domain.codec import STAMP_DIGITS, decode, encode, with_trace
from levelq_core.domain.commands import MAX_NUMBER, MAX_USER_ID
from levelq_core.domain.record import Lane, lane_of

STAMP = b"1760000000123"
DIGEST_AT, BODY_AT = STAMP_DIGITS + 20, STAMP_DIGITS + 36

Content = tuple[object, ...]


class Written(NamedTuple):
    """One entry as a producer wrote it, for its lane."""

    lane: Lane
    salt: bytes
    entry: bytes
    content: Content  # all that the digest guards: neither stamp nor flags nor id


def corpus(rng: Random) -> list[Written]:
    """Entries of every kind, with numbers and texts at their bounds, for a few lanes."""
    written = []
    for name in ("PLAYER", "COACH"):
        for user in (1, 2, MAX_USER_ID):
            for _ in range(10):
                for command in _commands(rng, user, name):
                    written.append(_write(command, rng.random() < 0.5))
    return written


def _write(command: Command, reply: bool) -> Written:
    lane = lane_of(command)
    payload = encode(command, reply=reply)
    if command.command_id.int % 2:
        payload = with_trace(payload, command.command_id.bytes + bytes(8))
    entry = STAMP + payload
    return Written(lane, lane.salt, entry, content(decode(entry, lane.salt)))


def content(record: tuple[object, ...]) -> Content:
    """The part of a record that the digest guards, and the digest."""
    return record[1:11]


def _commands(rng: Random, user: int, name: str) -> tuple[Command, ...]:
    def some() -> int:
        return rng.choice((0, 1, rng.randrange(100), rng.randrange(MAX_NUMBER), MAX_NUMBER))

    def change() -> int:
        return rng.choice((-1, 1)) * some()

    reason = rng.choice(("", "workshop", "é" * rng.randrange(250), "\U0001f3c5" * rng.randrange(500)))
    by = rng.choice((None, 1, MAX_USER_ID))
    level: Literal["keep", "earned"] = rng.choice(("keep", "earned"))
    return (
        LevelUp(user_id=user, specialization=name, xp_gained=some(), sessions_completed=some(), reason=reason),
        LevelUp(user_id=user, specialization=name, theory_hours=some(), practice_hours=some(), advanced_by=by),
        SetLevel(user_id=user, specialization=name, new_level=change(), xp_change=change(), reason=reason),
        SyncLevels(user_id=user, specialization=name, source="license", advanced_by=by, reason=reason),
        Adjust(user_id=user, specialization=name, xp_change=change(), sessions_change=change(), level=level),
        Reset(
            user_id=user, specialization=name, total_xp=some(), level=rng.choice(("earned", change())), reason=reason
        ),
    )


def flip(rng: Random, entry: bytes, other: bytes) -> bytes:
    """One to three bits the other way."""
    damaged = bytearray(entry)
    for _ in range(1 + int(rng.random() * 3)):
        damaged[int(rng.random() * len(damaged))] ^= 1 << int(rng.random() * 8)
    return bytes(damaged)


def truncate(rng: Random, entry: bytes, other: bytes) -> bytes:
    """An end cut off: the tail, or the head."""
    at = int(rng.random() * len(entry))
    return entry[:at] if rng.random() < 0.7 else entry[at:]


def splice(rng: Random, entry: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of another, at the same index or not."""
    at = int(rng.random() * len(entry))
    return entry[:at] + other[at if rng.random() < 0.5 else int(rng.random() * len(other)) :]


def insert(rng: Random, entry: bytes, other: bytes) -> bytes:
    at = int(rng.random() * (len(entry) + 1))
    return entry[:at] + other + entry[at:]


def overwrite(rng: Random, entry: bytes, other: bytes) -> bytes:
    """A few random bytes, anywhere."""
    at, count = int(rng.random() * len(entry)), 1 + int(rng.random() * 12)
    return entry[:at] + rng.randbytes(count) + entry[at + count :]


def replace(rng: Random, entry: bytes, other: bytes) -> bytes:
    """Another entry, whole: of this lane or of another one."""
    return other


DAMAGE: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (flip, truncate, splice, insert, overwrite, replace)


def forge(change: Callable[[bytes], bytes], salt: bytes, entry: bytes) -> bytes:
    """An entry whose writer computed the digest, but did not check what it wrote."""
    body = change(entry[BODY_AT:])
    return entry[:DIGEST_AT] + blake2b(salt + body, digest_size=16).digest() + body


def distort(rng: Random, other: bytes, body: bytes) -> bytes:
    """The content of an entry damaged once or twice."""
    for _ in range(1 + int(rng.random() * 2)):
        if body:
            body = rng.choice(DAMAGE)(rng, body, other)
    return body
