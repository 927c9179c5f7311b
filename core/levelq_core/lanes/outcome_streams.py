"""Outcomes on their way back to senders that want a reply: one small stream for each flagged command.

A stream, because reading does not consume it: any number of processes may wait for the same command, before and after
it is decided, and XREAD blocks without polling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import MovedError

from levelq_core.keys import Keys
from levelq_core.redis_client.cluster import LOST, NotConnected
from levelq_core.redis_client.topology import Topology, topology_of

if TYPE_CHECKING:
    from levelq_core.domain.outcome import Outcome

OUTCOME, SEND = b"outcome", b"send"
KEPT = 16  # outcomes of one id, newest last; several only if the id was sent several times


def send_key(digest: bytes, pushed_ms: int) -> bytes:
    """What identifies one send of an id: its content, and when Redis stamped it."""
    return b"%013d" % pushed_ms + digest


def write(redis: Redis, keys: Keys, decided: Iterable[tuple[Outcome, bytes]], seconds: int) -> None:
    """Keep outcomes, each with the key of its send, for `seconds`, in one round trip to each server.

    Outcomes that Redis refuses because its memory is full are left to the ledger: the lanes must be acknowledged all
    the same, or they would never be drained and the memory would stay full. So are those of a server that is away,
    if other servers may hold the lanes.
    """
    topology = topology_of(redis)
    for server, outcomes in _by_server(topology, keys, decided).items():
        pipeline = server.pipeline(transaction=False)
        for key, fields in outcomes:
            pipeline.xadd(key, fields, maxlen=KEPT, approximate=False)
            pipeline.expire(key, seconds)
        try:
            moved = next((a for a in pipeline.execute(raise_on_error=False) if isinstance(a, MovedError)), None)
            if moved:
                topology.moved(moved)
        except LOST as error:
            topology.lost(server, error)
            if not topology.several_servers:
                raise


def _by_server(
    topology: Topology, keys: Keys, decided: Iterable[tuple[Outcome, bytes]]
) -> dict[Redis, list[tuple[str, dict[Any, Any]]]]:
    found: dict[Redis, list[tuple[str, dict[Any, Any]]]] = {}
    for outcome, send in decided:
        key = keys.reply(outcome.command_id.bytes)
        with suppress(NotConnected):
            fields = {OUTCOME: outcome.model_dump_json(), SEND: send}
            found.setdefault(topology.at(key), []).append((key, fields))
    return found


def streams(reply: Any) -> Iterator[tuple[str, list[Any]]]:
    """Each stream in the reply of XREAD: its key and its entries."""
    for key, entries in reply.items() if isinstance(reply, dict) else reply or ():
        nested = entries and isinstance(entries[0], list)  # RESP3's replies are one level deeper
        yield key if isinstance(key, str) else key.decode(), entries[0] if nested else entries


def read_entries(entries: Iterable[Any], send: bytes | None) -> tuple[Outcome | None, bytes | None]:
    """The outcome of this send among the entries of a stream, and the last position read.

    Without a send: the first decision on the id, by any sender, rather than a conflict with it. Entries that are no
    outcome, which another program may have written, are skipped.
    """
    from levelq_core.domain.outcome import Outcome  # noqa: PLC0415 - a sender that waits for none does without

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
