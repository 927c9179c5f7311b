"""Why lanes are parked: the hash `parked` of a partition, user -> "since attempts reason".

ack.lua and claim.lua write it; the lane's score in `ready` is the time of the next attempt. Reading is
bounded and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.topology import server_of
from levelq_core.redis_client.wrong_type import unless_wrong_type
from levelq_core.untrusted_text import MOST_SHOWN, printable

MOST_BYTES = 300  # of a reason
MOST_LANES = 1_000  # that are read of one partition
WRONG_TYPE = "its key holds another type than a list"  # claim.lua's words
NEWER_VERSION = "its head waits for a newer worker"
_PAGE = 500
_LAST_MS = 2**53  # later scores are no times
_NOTE = re.compile(rb"(\d{1,13}) (\d{1,9}) ")
_STATE = re.compile(r" \(SQLSTATE \w{5}\)$")

Reasons = Mapping[bytes, str] | None  # by user, as Redis holds it
Acknowledgements = Sequence[tuple[bytes, int, bytes]]  # user, delay in ms, identities


class ParkedLane(NamedTuple):
    """One lane and why it waits. Times are the server's, in ms.

    `since_ms`: the first attempt at its first command. `until_ms`: the earliest time of the next attempt, None while a
    drain holds the lane.
    """

    user: str
    since_ms: int
    until_ms: int | None
    attempts: int
    reason: str


class ParkedLanes(NamedTuple):
    """The parked lanes of one partition: how many, and as many of them as were read, the oldest first."""

    total: int
    lanes: list[ParkedLane]


def bounded(reason: str) -> bytes:
    """A reason on one line of MOST_BYTES at most; a SQLSTATE at its end is kept."""
    line = " ".join(reason.split())
    raw = line.encode(errors="replace")
    if len(raw) <= MOST_BYTES:
        return raw
    state = _STATE.search(line)
    end = b"..." + (state[0].encode() if state else b"")
    return raw[: MOST_BYTES - len(end)].decode(errors="ignore").encode() + end


def cause_of(reason: str) -> str:
    """A reason without its numbers, which often name a user or a row: the same for all lanes of one cause."""
    state = _STATE.search(reason)
    text = reason[: state.start()] if state else reason
    return re.sub(r"\d+", "#", text) + (state[0] if state else "")


def reason_lines(lanes: Acknowledgements, reasons: Reasons) -> bytes:
    """For ack.lua: a line for each lane, empty without a reason; nothing at all if no lane has one."""
    if not reasons:
        return b""
    return b"".join(bounded(reasons.get(user, "")) + b"\n" for user, _, _ in lanes)


def is_note(raw: bytes) -> bool:
    """Whether this is a value of the hash: since when, after how many attempts and why a lane is parked."""
    return _NOTE.match(raw) is not None


def read(redis: Redis, keys: Keys, partition: Partition, most: int = MOST_LANES) -> ParkedLanes:
    """The parked lanes of a partition, `most` of them, without unreadable notes. Raises RedisError."""
    key = keys.of(partition, "parked")
    server: Any = server_of(redis, key)
    found: dict[bytes, bytes] = {}
    total, cursor = unless_wrong_type(0, server.hlen, key), None
    while total and cursor != 0 and len(found) < most:
        cursor, page = server.hscan(key, cursor or 0, count=min(_PAGE, most))
        found |= page
    users = list(found)[:most]
    no_scores = [None] * len(users)
    scores = unless_wrong_type(no_scores, server.zmscore, keys.of(partition, "ready"), users) if users else no_scores
    read_ = [parked_lane(user, found[user], score) for user, score in zip(users, scores, strict=True)]
    lanes = [lane for lane in read_ if lane is not None]
    return ParkedLanes(total, sorted(lanes, key=lambda lane: lane.since_ms))


def parked_lane(user: bytes, note: bytes, score: object) -> ParkedLane | None:
    """A parked lane by its note and its score in `ready`; None if the note is not "since attempts reason"."""
    match = _NOTE.match(note)
    if match is None:
        return None
    reason = printable(note[match.end() :], MOST_BYTES)
    return ParkedLane(printable(user, MOST_SHOWN), int(match[1]), time_in(score), int(match[2]), reason)


def time_in(score: object) -> int | None:
    """A score as a time in ms; None if there is none, or if it is no time."""
    return int(score) if isinstance(score, float) and abs(score) <= _LAST_MS else None
