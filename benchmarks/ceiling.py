"""What PostgreSQL alone can do: the statements of the drain's own transactions, replayed with prebuilt parameters.

One worker's batches are recorded while the coupler decides them; then the tables are reset, and two processes with a
connection each send the same statements again, without Redis and without folding. The replay encodes arrays and COPY
rows again, as a drain must. It receives the server's answers, but does not decode them.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import psycopg
from psycopg.rows import TupleRow

from levelq_core import Settings
from levelq_core.coupler import couple as coupler
from levelq_core.coupler import ledger, locking
from levelq_core.coupler.lane_batch import BatchInfo, LaneBatch
from levelq_core.coupler.ledger import LEDGER_COPY
from levelq_core.database import cursors
from levelq_core.database.cursors import cursor_on
from levelq_core.database.engine import engine_for
from levelq_core.database.pgbinary import bigints, texts, uuids
from levelq_core.domain.codec import record_of
from levelq_core.domain.record import Lane
from levelq_worker.draining.transaction import Transactions

from .site import SPECIALIZATION, Site
from .workload import Workload, level_ups

PROCESSES = 2
ENCODERS: dict[str, Callable[[Any], Any]] = {"bigints": bigints, "texts": texts, "uuids": uuids}


class Ceiling(NamedTuple):
    """Commands a second, and where the time of one batch goes: seconds by statement."""

    workload: str
    rate: float
    seconds: dict[str, float]


class Step(NamedTuple):
    """One statement with the values of its parameters, or the rows of the ledger."""

    statement: str
    parameters: list[tuple[str, Any]]
    rows: tuple[Any, BatchInfo] | None = None


class Replayed(NamedTuple):
    """When a process sent its first statement and got its last answer, and its seconds by statement."""

    begun: float
    ended: float
    spent: dict[str, float]


Batch = list[Step]


def ceiling(site: Site, workload: Workload) -> Ceiling:
    """Record, reset the tables, replay."""
    shares = [list(lanes) for lanes in _shares(workload)]
    for number, works in enumerate(shares):
        site.reset(workload.users)
        (site.folder / f"replay-{number}.pickle").write_bytes(pickle.dumps(_record(site, works)))
    site.reset(workload.users)
    replays = [_start(site, site.folder / f"replay-{number}.pickle") for number in range(PROCESSES)]
    for replay in replays:
        assert replay.stdout is not None
        replay.stdout.readline()  # ready
    for replay in replays:
        assert replay.stdin is not None
        replay.stdin.write(b"go\n")
        replay.stdin.flush()
    results = [Replayed(*pickle.loads(replay.communicate()[0])) for replay in replays]
    site.check(workload.commands)
    seconds = max(share.ended for share in results) - min(share.begun for share in results)
    names = {name for share in results for name in share.spent}
    spent = {name: sum(share.spent.get(name, 0.0) for share in results) for name in names}
    return Ceiling(workload.name, workload.commands / seconds, spent)


def _start(site: Site, file: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, str(site.settings.database_url), str(file)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _shares(workload: Workload) -> Iterator[list[list[LaneBatch]]]:
    """Each process's batches: whole lanes, as many as a drain would claim, in the order they were pushed."""
    lanes: dict[int, list[Any]] = {}
    for command in level_ups(workload.grants()):
        lanes.setdefault(command.user_id, []).append(record_of(command))
    works = [
        LaneBatch(Lane(SPECIALIZATION, user_id), records, range(len(records))) for user_id, records in lanes.items()
    ]
    for number in range(PROCESSES):
        yield list(_batches(works[number::PROCESSES]))


def _batches(works: Sequence[LaneBatch]) -> Iterator[list[LaneBatch]]:
    settings = Settings.load()
    batch: list[LaneBatch] = []
    commands = 0
    for work in works:
        batch.append(work)
        commands += len(work.records)
        if commands >= settings.batch_commands or len(batch) >= settings.batch_lanes:
            yield batch
            batch, commands = [], 0
    if batch:
        yield batch


class _Recording(psycopg.Cursor[TupleRow]):
    """Records what is executed."""

    steps: ClassVar[Batch] = []

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        values = [getattr(p, "made_of", ("", p)) for p in params or ()]
        self.steps.append(Step(query, values))
        return super().execute(query, params, **options)


def _record(site: Site, batches: Sequence[Sequence[LaneBatch]]) -> list[tuple[int, Batch]]:
    """Decide the batches; for each, how many commands it has and what was sent."""
    recorded = []
    engine = engine_for(site.settings)
    transactions = Transactions(engine, site.settings, site.settings.tracks)
    transactions.probe()
    with _recording():
        for works in batches:
            _Recording.steps = []
            with transactions.open() as transaction:
                transaction.decide(works, (), lambda: None)
                transaction.send_commit()
                transaction.confirm_commit()
            recorded.append((sum(len(work.records) for work in works), _Recording.steps))
    engine.dispose()
    return recorded


@contextmanager
def _recording() -> Iterator[None]:
    """Record every statement and ledger row, and keep the values beside every encoded array."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(cursors, "SyncCursor", _Recording))
        for module in (locking, coupler, ledger):
            for name in ENCODERS:
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, partial(_made, name)))
        stack.enter_context(patch.object(ledger, "write", partial(_written, ledger.write)))
        yield


def _made(name: str, values: Any) -> Any:
    kept = list(values)
    encoded = ENCODERS[name](kept)
    encoded.made_of = (name, kept)
    return encoded


def _written(write: Callable[..., None], cursor: Any, rows: Any, stamp: BatchInfo, **options: Any) -> None:
    kept = list(rows)
    _Recording.steps.append(Step(LEDGER_COPY, [], (kept, stamp)))
    write(cursor, kept, stamp, **options)


def replay(url: str, batches: Sequence[Batch]) -> Replayed:
    """Send the batches, each in a transaction."""
    spent: dict[str, float] = {}
    with psycopg.connect(url) as connection, cursor_on(connection) as cursor:
        print("ready", flush=True)
        sys.stdin.readline()
        first = time.time()
        for batch in batches:
            begun = time.perf_counter()
            for statement, parameters, rows in batch:
                if rows is not None:
                    ledger.write(cursor, *rows, encoding="UTF8")
                else:
                    cursor.execute(statement, [ENCODERS[how](made) if how else made for how, made in parameters])
                now = time.perf_counter()
                name = " ".join(statement.split())[:60]
                spent[name] = spent.get(name, 0.0) + now - begun
                begun = now
            connection.commit()
            spent["COMMIT"] = spent.get("COMMIT", 0.0) + time.perf_counter() - begun
        return Replayed(first, time.time(), spent)


if __name__ == "__main__":
    result = replay(sys.argv[1], [batch for _, batch in pickle.loads(Path(sys.argv[2]).read_bytes())])
    sys.stdout.buffer.write(pickle.dumps(tuple(result)))
