"""Outcomes on their way back to the sender that asked: one small stream per flagged command.

A stream, because reading does not consume it: any number of processes may wait for the same command,
before and after it is decided, and XREAD blocks without polling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import MovedError

from levelq_core.domain.outcome import Outcome
from levelq_core.keys import Keys
from levelq_core.redis_client.cluster import LOST, Cluster, NotConnected

OUTCOME, SEND = b"outcome", b"send"
KEPT = 16  # outcomes of one id, newest last: more than one only if the id was sent more than once


def send_key(digest: bytes, pushed_ms: int) -> bytes:
    """What tells one send of an id from another: its content, and when Redis stamped it."""
    return b"%013d" % pushed_ms + digest


def write(redis: Redis, keys: Keys, decided: Iterable[tuple[Outcome, bytes]], seconds: int) -> None:
    """Keep outcomes, each with the key of its send, for `seconds`, in one round trip.

    What Redis refuses, because its memory is full, is left to the ledger: the lanes must be acknowledged all the
    same, or they would never be drained and it would stay full.
    """
    if not isinstance(redis, Cluster):
        _write(redis, keys, decided, seconds)
        return
    # They lie on other servers than the lanes do: where one does not answer, the ledger does.
    for server, some in _by_server(redis, keys, decided).items():
        try:
            moved = next((a for a in _write(server, keys, some, seconds) if isinstance(a, MovedError)), None)
            if moved:
                redis.moved(moved)
        except LOST as error:
            redis.lost(server, error)


def _write(server: Redis, keys: Keys, decided: Iterable[tuple[Outcome, bytes]], seconds: int) -> list[Any]:
    pipeline = server.pipeline(transaction=False)
    for outcome, send in decided:
        key = keys.reply(outcome.command_id.bytes)
        pipeline.xadd(key, {OUTCOME: outcome.model_dump_json(), SEND: send}, maxlen=KEPT, approximate=False)
        pipeline.expire(key, seconds)
    return pipeline.execute(raise_on_error=False) if len(pipeline) else []


def _by_server(
    redis: Cluster, keys: Keys, decided: Iterable[tuple[Outcome, bytes]]
) -> dict[Redis, list[tuple[Outcome, bytes]]]:
    found: dict[Redis, list[tuple[Outcome, bytes]]] = {}
    for outcome, send in decided:
        with suppress(NotConnected):
            found.setdefault(redis.at(keys.reply(outcome.command_id.bytes)), []).append((outcome, send))
    return found


def streams(reply: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each stream in an XREAD's reply: its key and its entries."""
    for key, entries in reply.items() if isinstance(reply, dict) else reply or ():
        nested = entries and isinstance(entries[0], list)  # RESP3's replies are one level deeper
        yield key if isinstance(key, str) else key.decode(), entries[0] if nested else entries


def read_entries(entries: Iterable[Any], send: bytes | None) -> tuple[Outcome | None, bytes | None]:
    """The outcome among a stream's entries that answers this send, and the last position read.

    Without a send: the first decision on the id, by any sender, rather than a conflict with it. Entries that are no
    outcome, which another program may have written, are skipped.
    """
    found, last = None, None
    for position, fields in entries:
        last = position
        if send is None or fields.get(SEND) == send:
            try:
                outcome = Outcome.model_validate_json(fields.get(OUTCOME, b""))
            except ValueError:
                continue
            if found is None or (found.error == "conflict" and send is None):
                found = outcome
    return found, last
