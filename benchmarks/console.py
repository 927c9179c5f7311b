"""How fast the console's readings answer with many lanes and a long ledger while a drain runs, and what they cost it.

    .venv/bin/python -m benchmarks.console [--lanes 1_000_000] [--rows 10_000_000] [--calls 30] [--pages] [--quick]

The lanes wait in two specializations that no worker serves, so they stay; some are long, parked or paused. The ledger
has rejections, quarantined entries and lines of the audit beside it. Then each reading is timed alone, and again while
a worker drains a third specialization, in which another process sends. `--pages` times the console's pages over HTTP
as well. Last, drains with an overview every two seconds take turns with drains without. `--quick`: 100,000 lanes,
1,000,000 rows.
"""

from __future__ import annotations

import os
import threading
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from statistics import median, quantiles
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from redis import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from levelq_core import LevelUp, Settings
from levelq_core.database.engine import engine_for
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.lanes import drift_report
from levelq_core.lanes.client import Lanes
from levelq_core.operations.readings.audit_lines import AUDIT_LINES, Acts
from levelq_core.operations.readings.explanation import explain
from levelq_core.operations.readings.gauges import gauges
from levelq_core.operations.readings.history import History
from levelq_core.operations.readings.lane_search import find_lane
from levelq_core.operations.readings.overview import overview
from levelq_core.operations.readings.pauses import active_pauses
from levelq_core.operations.readings.quarantine import QUARANTINED
from levelq_core.operations.readings.rejected import REJECTED
from levelq_core.operations.readings.selection import Selection
from levelq_core.operations.readings.workers import workers
from levelq_producer import Producer

from .command import options, temporary_site, wide_console
from .drain import CORES, Parts, drain_more
from .metrics import free_port
from .rivals.kinds import Workers
from .rivals.levelq import Levelq
from .site import PARTITION, SPECIALIZATION, Site, until
from .workload import Workload

WAITING = (("COACH", 0.7), ("INTERNSHIP", 0.3))  # what share of the lanes each holds
LONGEST = 50_000  # commands in the longest lane
LONG_EVERY, LONG = 100, 20  # every 100th lane has 20 commands
PARKED, PAUSED = 20_000, 2_000  # lanes in each specialization, at most
HOT, HOT_SHARE = 1, 50  # this user has every 50th row of the ledger
QUIET = 77  # a user with a usual number of rows
REFUSED, REFUSED_OPEN = 20, 40  # below BOUND every 20th row is rejected, every 40th also not settled
BOUND = 4_000_000  # rows of the ledger among which the rejected ones are
OVER_SECONDS = 2.0  # between two overviews
DRAINED = Workload("twenty commands per user", 10_000, 200_000)
USERS, BACKLOG = 20_000, 20_000  # of the specialization that is drained
SENT = 500  # in one call: a larger one would keep Redis from answering for long
PUSHED = 5_000  # lanes in one call

# Ids count up, so that the index of the ids is filled quickly and a command can be named; a tenth of the users have
# the first half of the rows, as regular users do. Rejections are spread evenly over the first rows.
_LEDGER = """
    INSERT INTO levelq_ledger (command_id, user_id, specialization, kind, status, error, message, digest, xp, sessions,
        projects, theory_hours, practice_hours, reason, from_level, to_level, before, after, batch, xid, source, worker,
        applied_at, settled)
    SELECT lpad(to_hex(n), 32, '0')::uuid,
           CASE WHEN n %% %(hot_share)s = 0 THEN %(hot)s ELSE 2 + (n * 7919) %% %(users)s END,
           (ARRAY['PLAYER', 'COACH', 'INTERNSHIP'])[1 + n %% 3], 'level_up',
           CASE WHEN refused THEN 'rejected' ELSE 'applied' END,
           CASE WHEN NOT refused THEN NULL WHEN n %% 5 = 0 THEN 'validation_error' ELSE 'database_error' END,
           CASE WHEN refused THEN 'new row for relation "user_licenses" violates check constraint "c' || n %% 7
                || '" (SQLSTATE 23514)' END,
           sha256(n::text::bytea), 60, 1, 0, 0, 0, 'match ' || n, 1, 1 + (n %% 17 = 0)::int,
           ARRAY[1, 1, 1, n %% 1000, 1, 0, 0, 0], ARRAY[1, 1, 1, n %% 1000 + 60, 2, 0, 0, 0],
           lpad(to_hex(n / 500), 32, '0')::uuid, n / 500, 'queue', 'host:' || n %% 4,
           now() - (%(rows)s - n) * interval '0.5 seconds',
           CASE WHEN refused AND n %% %(open)s <> 0 THEN 'discarded' END
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
        CROSS JOIN LATERAL (SELECT n %% %(refused)s = 0 AND n < %(bound)s AS refused) r
"""
_CHUNK = 500_000
_OTHERS = (
    "INSERT INTO specialization_progress (student_id, specialization_id) "
    "SELECT n, name FROM generate_series(1, %(users)s) n, unnest('{PLAYER,COACH}'::text[]) name ON CONFLICT DO NOTHING",
    "INSERT INTO user_licenses (user_id, specialization_type) "
    "SELECT n, name FROM generate_series(1, %(users)s) n, unnest('{PLAYER,COACH}'::text[]) name ON CONFLICT DO NOTHING",
    "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met) "
    "SELECT id, 1, 2, '{}' FROM user_licenses",
    "INSERT INTO levelq_quarantine (specialization, user_id, reason, raw, length, sha256, at) "
    "SELECT 'COACH', 2 + n %% 1000, 'expected the magic LQ, got byte ' || n, repeat('x', 80)::bytea, 80, "
    "sha256(n::text::bytea), now() - (%(kept)s - n) * interval '1 second' FROM generate_series(1, %(kept)s) n",
    "INSERT INTO levelq_audit (actor, origin, action, target, detail, at) "
    "SELECT 'ops', 'host levelq', (ARRAY['rejected retry', 'pause', 'purge', 'cancel'])[1 + n %% 4], "
    "'user ' || (2 + n %% 5000), '{\"commands\": 1}', now() - (%(acts)s - n) * interval '1 minute' "
    "FROM generate_series(1, %(acts)s) n",
    "INSERT INTO levelq_outbox (command_id, user_id, specialization, payload, pushed_at) "
    "SELECT gen_random_uuid(), n, 'COACH', repeat('x', 80)::bytea, now() FROM generate_series(1, %(acts)s) n",
    "INSERT INTO levelq_event_positions (consumer, position) VALUES ('achievements', %(rows)s / 2)",
)


class Timing(NamedTuple):
    """How long a reading takes, in ms."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, work: Callable[[], object], calls: int) -> Timing:
        """Time some calls, after one that makes the connections."""
        work()
        taken = []
        for _ in range(calls):
            begun = time.perf_counter()
            work()
            taken.append(1000 * (time.perf_counter() - begun))
        return cls(median(taken), quantiles(taken, n=100, method="inclusive")[98], max(taken))


@dataclass
class Reader:
    """What the readings read: settings and an engine, as a console has them, and the server's own clock for times."""

    settings: Settings
    engine: Engine
    redis: Redis
    rows: int

    def ago(self, **spent: float) -> datetime:
        """So long before now."""
        return datetime.now(UTC) - timedelta(**spent)

    def pauses(self) -> object:
        """The pauses of all partitions."""
        lanes = Lanes(self.redis, self.settings)
        return active_pauses(lanes, lanes.partitions())

    def search(self, command_id: UUID) -> object:
        """The lane of a command; an answer that too much waits counts, too."""
        try:
            return find_lane(self.settings, command_id, engine=self.engine)
        except Exception as error:
            return error


Reading = Callable[[Reader], object]
READINGS: Mapping[str, Reading] = {
    "overview": lambda r: overview(r.settings, engine=r.engine),
    "workers": lambda r: workers(r.settings),
    "pauses": Reader.pauses,
    "drift": lambda r: drift_report.read(r.redis, r.settings.keys),
    "gauges": lambda r: gauges(r.settings),
    "user": lambda r: explain(r.settings, QUIET, engine=r.engine),
    "user with many rows": lambda r: explain(r.settings, HOT, engine=r.engine),
    "user with many rows, since an hour": lambda r: explain(
        r.settings, HOT, since=r.ago(hours=1), engine=r.engine
    ),
    "user: waiting": lambda r: History(r.engine, r.settings).waiting(QUIET),
    "user: history": lambda r: History(r.engine).of(QUIET),
    "rejected": lambda r: REJECTED.page(r.engine, Selection()),
    "rejected of a user": lambda r: REJECTED.page(r.engine, Selection(user_id=QUIET)),
    "rejected of a user with many": lambda r: REJECTED.page(r.engine, Selection(user_id=HOT)),
    "rejected with a rare error": lambda r: REJECTED.page(r.engine, Selection(error="cancelled")),
    "rejected with a rare reason": lambda r: REJECTED.page(r.engine, Selection(reason="nowhere")),
    "rejected with a rare reason, also settled": lambda r: REJECTED.page(
        r.engine, Selection(reason="nowhere", settled=True)
    ),
    "rejected of no specialization": lambda r: REJECTED.page(r.engine, Selection(specialization="NONE")),
    "rejected since a day": lambda r: REJECTED.page(r.engine, Selection(since=r.ago(days=1))),
    "rejected until a month ago": lambda r: REJECTED.page(r.engine, Selection(until=r.ago(days=30))),
    "quarantined": lambda r: QUARANTINED.page(r.engine, Selection()),
    "quarantined of a user": lambda r: QUARANTINED.page(r.engine, Selection(user_id=QUIET)),
    "quarantined with a rare reason": lambda r: QUARANTINED.page(r.engine, Selection(reason="nowhere")),
    "quarantined since an hour": lambda r: QUARANTINED.page(r.engine, Selection(since=r.ago(hours=1))),
    "audit": lambda r: AUDIT_LINES.page(r.engine, Acts()),
    "audit of a user": lambda r: AUDIT_LINES.page(r.engine, Acts(user_id=QUIET)),
    "audit of a rare act": lambda r: AUDIT_LINES.page(r.engine, Acts(action="rebind")),
    "audit since a day": lambda r: AUDIT_LINES.page(r.engine, Acts(since=r.ago(days=1))),
    "search: a decided command": lambda r: r.search(UUID(int=r.rows // 2)),
    "search: a command that waits": lambda r: r.search(UUID(int=2**64 + QUIET)),
    "search: an unknown command": lambda r: r.search(uuid4()),
}  # fmt: skip

# Paths of the console, by what they show.
PAGES: Mapping[str, str] = {
    "overview": "/",
    "a part of the overview": "/?part=figures_part",
    "partition": "/partitions/COACH:1:0",
    "user": f"/users/{QUIET}",
    "user with many rows": f"/users/{HOT}",
    "rejected": "/rejected",
    "rejected with a rare reason": "/rejected?reason=nowhere",
    "quarantined": "/quarantined",
    "drift": "/drift",
    "workers": "/workers",
    "audit": "/audit",
    "settings": "/settings",
    "search: a user": f"/search?q={QUIET}",
    "search: a command that waits": f"/commands/{UUID(int=2**64 + QUIET)}",
    "search: an unknown command": f"/commands/{UUID(int=2**100)}",
}


def fill_ledger(site: Site, rows: int, users: int) -> None:
    """The tables: learners, the ledger, and what operators did and have to do."""
    kept, acts = max(1_000, rows // 200), max(1_000, rows // 100)
    values = {
        "rows": rows, "users": users, "hot": HOT, "hot_share": HOT_SHARE, "refused": REFUSED, "open": REFUSED_OPEN,
        "bound": BOUND, "kept": kept, "acts": acts,
    }  # fmt: skip
    for first in range(0, rows, _CHUNK):
        site.database.execute(_LEDGER, values | {"first": first, "last": min(first + _CHUNK, rows) - 1})
    for statement in _OTHERS:
        site.database.execute(statement, values)
    site.database.execute("VACUUM ANALYZE")
    site.database.execute("CHECKPOINT")


def fill_lanes(site: Site, lanes: int) -> None:
    """The lanes that wait, by the script that a producer calls."""
    pushing = Lanes(site.redis, site.settings)
    for name, share in WAITING:
        partition, users = Partition(name), int(share * lanes)
        pushing.ensure_layouts({name})
        site.redis.zadd(site.settings.keys.registry, {str(partition): time.time()})
        for first in range(1, users + 1, PUSHED):
            some = [(user, _entries(name, user)) for user in range(first, min(first + PUSHED, users + 1))]
            for answer in pushing.push([(partition, some)]):
                if isinstance(answer, Exception):
                    raise answer
        _park(site, partition, users)


def _entries(name: str, user: int) -> list[bytes]:
    number = LONGEST if user == 2 else LONG if user % LONG_EVERY == 0 else 1
    made = (LevelUp(user_id=user, specialization=name, xp_gained=1, command_id=UUID(int=2**64 + user + (k << 65)))
            for k in range(number))  # fmt: skip
    return [encode(command) for command in made]


def _park(site: Site, partition: Partition, users: int) -> None:
    """Some lanes wait for a later attempt, with a reason; those of some users are paused."""
    keys, now = site.settings.keys, int(1000 * time.time())
    parked = range(3, min(PARKED, users // 10) + 3)
    paused = range(parked.stop, parked.stop + min(PAUSED, users // 100))
    for some in (parked[n : n + PUSHED] for n in range(0, len(parked), PUSHED)):
        notes = {
            str(user): f"{now - user} 3 new row of user {user} violates check constraint (SQLSTATE 23514)"
            for user in some
        }
        site.redis.hset(keys.of(partition, "parked"), mapping=dict[Any, Any](notes))
        site.redis.zadd(keys.of(partition, "ready"), {str(user): now + 3_600_000 + user for user in some})
    pauses = {str(user): f"{now} 0 ops|asked by support" for user in paused}
    site.redis.hset(keys.of(partition, "paused"), mapping=dict[Any, Any](pauses))
    site.redis.zadd(keys.of(partition, "ready"), {str(user): 1e16 for user in paused})


def send() -> None:
    """Keep a backlog for the drains until this process is ended."""
    settings = Settings.load()
    count = settings.keys.of(PARTITION, "count")
    with Producer(settings) as producer, closing(Redis.from_url(settings.redis_url)) as redis:
        first = 0
        while True:
            if int(redis.get(count) or 0) < BACKLOG:
                users, first = range(first, first + SENT), (first + SENT) % USERS
                producer.send_many(LevelUp(user_id=1 + n, specialization=SPECIALIZATION, xp_gained=1) for n in users)
                continue
            time.sleep(0.1)


@contextmanager
def draining(site: Site) -> Iterator[None]:
    """A worker drains meanwhile what another process sends."""
    before = site.number("SELECT max(id) FROM levelq_ledger")
    worker, sender = ["-m", "levelq", "worker", "-s", SPECIALIZATION], ["-m", "benchmarks.console", "--send"]
    with site.running("worker", worker), site.running("sender", sender):
        until(lambda: site.number("SELECT max(id) FROM levelq_ledger") > before, 60, "a drain")
        yield


@contextmanager
def reader_of(site: Site, rows: int) -> Iterator[Reader]:
    """A reader, with connections of its own."""
    engine = engine_for(site.settings, name="levelq console", connections=8, limited=True)
    try:
        yield Reader(site.settings, engine, site.redis, rows)
    finally:
        engine.dispose()


@contextmanager
def served(site: Site) -> Iterator[Callable[[str], bytes]]:
    """A console; calls with a path return its page, or what a redirect or an unknown command is answered with."""
    port = free_port()

    def get(path: str) -> bytes:
        with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            read = answer.read()
            assert answer.status in (200, 303, 404), f"{path}: {answer.status} {answer.reason}"
            return read

    def answers() -> bool:
        try:
            return bool(get("/"))
        except OSError:
            return False

    with site.running("console", ["-m", "levelq", "console", "--port", str(port), "--read-only"]):
        until(answers, 60, "the console")
        yield get


class Overviews:
    """Reads an overview every two seconds while the block runs, if it is wanted."""

    def __init__(self, reader: Reader, wanted: bool) -> None:
        self._reader, self._wanted = reader, wanted
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while self._wanted and not self._ended.is_set():
            overview(self._reader.settings, engine=self._reader.engine)
            self._ended.wait(OVER_SECONDS)


def processor_time(site: Site, reader: Reader, calls: int) -> dict[str, float]:
    """What one overview takes of the reader and of both servers, in ms of processor time; nothing else may run."""
    parts = Parts(site, [os.getpid()])
    overview(reader.settings, engine=reader.engine)
    before = parts.seconds()
    for _ in range(calls):
        overview(reader.settings, engine=reader.engine)
    # The servers are children of this process.
    after = parts.seconds()
    spent = {name: 1000 * (after[name] - before[name]) / calls for name in after}
    return {"reader": spent["workers"] - spent["Redis"] - spent["PostgreSQL"], **{k: spent[k] for k in site.servers}}


class OneSpecialization(Levelq):
    """Workers that leave the other specializations' lanes alone."""

    def work(self, site: Site) -> Workers:
        return site.running(self.name, [*self._command, "-s", SPECIALIZATION], **self._environment)


def cost_of_overviews(site: Site, reader: Reader, repeats: int) -> tuple[list[float], list[float]]:
    """Rates of drains without and with overviews, in turns, beside the lanes and the rows that are there."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    rival = OneSpecialization(2)
    with rival.work(site):
        until(lambda: not site.waiting(), 120, "what is left to be drained")
    for number in range(2 * repeats):
        wanted = number % 4 in (1, 2)  # without with, with without
        drained = drain_more(site, rival, DRAINED.name, DRAINED.grants(), Overviews(reader, wanted))
        rates[wanted].append(drained.rate)
    return rates[False], rates[True]


def measured(work: Mapping[str, Callable[[], object]], calls: int) -> dict[str, Timing]:
    return {name: Timing.of(call, calls) for name, call in work.items()}


def table_of(title: str, found: Mapping[str, Mapping[str, Timing]]) -> Table:
    """A row for each reading, columns for each way it was measured."""
    shown = Table("reading, ms", title=title, title_justify="left")
    for way in found:
        for figure in ("p50", "p99", "most"):
            shown.add_column(f"{way}: {figure}", justify="right")
    for name in next(iter(found.values())):
        shown.add_row(name, *(f"{value:,.1f}" for way in found.values() for value in way[name]))
    return shown


def report(site: Site, reader: Reader, given: Namespace, console: Console) -> None:
    """Measure everything on what is there, and print it."""
    work = {name: partial(read, reader) for name, read in READINGS.items() if given.only in name}
    found = {"alone": measured(work, given.calls)}
    spent = processor_time(site, reader, given.calls)
    share = sum(spent.values()) / (1000 * OVER_SECONDS * CORES)
    listed = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
    console.print(f"one overview, ms of processor time: {listed}; every {OVER_SECONDS:g} s {share:.2%} of the cores")
    with draining(site):
        found["beside a drain"] = measured(work, given.calls)
        console.print(table_of(f"load {os.getloadavg()[0]:.1f}", found))
        if given.pages:
            with served(site) as get:
                pages = {name: partial(get, path) for name, path in PAGES.items()}
                console.print(table_of("pages", {"beside a drain": measured(pages, given.calls)}))
    if given.repeats:
        without, with_ = cost_of_overviews(site, reader, given.repeats)
        shown = [f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})" for rates in (without, with_)]
        ratio = median(with_) / median(without)
        console.print(f"drains: {shown[0]}/s without overviews, {shown[1]}/s with: {ratio:.3f} of the rate")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--lanes", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=4, help="drains with and without overviews")
    parser.add_argument("--pages", action="store_true", help="also the console's pages, over HTTP")
    parser.add_argument("--only", default="", help="readings whose name has this")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--send", action="store_true", help=SUPPRESS)
    given = parser.parse_args()
    if given.send:
        send()
    if given.quick:
        given.lanes, given.rows, given.calls, given.repeats = 100_000, 1_000_000, 10, 2
    console = wide_console()
    with temporary_site() as site, reader_of(site, given.rows) as reader:
        begun = time.monotonic()
        site.reset(USERS)
        fill_ledger(site, given.rows, given.lanes)
        console.print(f"{given.rows:,} rows: {time.monotonic() - begun:.0f} s", style="dim")
        begun = time.monotonic()
        fill_lanes(site, given.lanes)
        console.print(f"{given.lanes:,} lanes: {time.monotonic() - begun:.0f} s", style="dim")
        report(site, reader, given, console)


if __name__ == "__main__":
    main()
