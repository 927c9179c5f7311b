"""Every point of levelq_core.failpoints with every fault that makes sense there, several scenarios side by side.

    RECOVERIES=recoveries.jsonl python -m pytest -q -s tests/acceptance/fault_points

appends a line for each scenario: from the fault until everything that was sent was applied.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from statistics import median

import pytest
from redis import Redis
from sqlalchemy import text

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.failpoints import POINTS
from tests.acceptance.fault_points.network import Site
from tests.acceptance.fault_points.play import Result, play
from tests.acceptance.fault_points.scenarios import SCENARIOS, Fault, Scenario
from tests.architecture.sources import sources
from tests.support.fixtures.databases import TABLES, Databases
from tests.support.fixtures.recoveries import write_down

SIDE_BY_SIDE = 5  # a scenario mostly waits: for claims to run out, for a stop to last
pytestmark = pytest.mark.timeout(300)  # more than what a scenario waits for


@pytest.fixture(scope="module")
def sites(servers: Servers, databases: Databases) -> Iterator[SimpleQueue[Site]]:
    """Where scenarios may run, with small batches and slices, so that both workers share a round.

    Redis's number 0 is the other tests'.
    """
    free: SimpleQueue[Site] = SimpleQueue()
    names = [databases.take("own") for _ in range(SIDE_BY_SIDE)]
    for number, name in enumerate(names, 1):
        urls = {"redis_url": f"{servers.valkey.url}?db={number}", "database_url": databases.url(name)}
        limits = {"sweep_seconds": 0.2, "redis_seconds": 0.5, "slice_seconds": 0.1, "batch_commands": 40}
        free.put(Site(Settings.load(**urls, **limits), servers))
    yield free
    for name in names:
        databases.give_back("own", name)


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, sites: SimpleQueue[Site], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Scenario, Future[Result]]]:
    """The scenarios of the chosen tests, as they run; and the summary of their results at the end."""
    folder = tmp_path_factory.mktemp("fault_points")

    def run(scenario: Scenario) -> Result:
        site = sites.get()
        try:
            (folder / str(scenario)).mkdir()
            return play(scenario, site, folder / str(scenario))
        finally:
            empty(site.settings)
            sites.put(site)

    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {call.params["scenario"]: None for call in calls if call is not None and "scenario" in call.params}
    pool = ThreadPoolExecutor(SIDE_BY_SIDE)
    found = {scenario: pool.submit(run, scenario) for scenario in wanted}
    yield found
    pool.shutdown(cancel_futures=True)
    results = [future.result() for future in found.values() if not future.cancelled() and future.exception() is None]
    write_down(map(_line, results))
    print(summary(results))


def empty(settings: Settings) -> None:
    """Leave nothing to the next scenario."""
    with Redis.from_url(settings.redis_url) as redis:
        redis.flushdb()
    engine = engine_for(settings)
    with engine.begin() as connection:
        tables = connection.execute(text(TABLES)).scalars()
        connection.execute(text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY"))
    engine.dispose()


def _line(result: Result) -> dict[str, object]:
    scenario, *figures = result
    named = zip(("commands", "seconds", "end_seconds"), figures, strict=True)
    return {"kind": f"{scenario.fault.value} at {scenario.point}", "victim": scenario.victim.value, **dict(named)}


def summary(results: list[Result]) -> str:
    """Recovery by kind of fault, in seconds."""
    lines = ["", f"{'fault':28} scenarios  commands  median  worst"]
    for fault in Fault:
        chosen = [result for result in results if result.scenario.fault is fault]
        if chosen:
            seconds = [result.recovery_seconds for result in chosen]
            commands = sum(result.commands for result in chosen)
            lines.append(f"{fault.value:28} {len(chosen):9} {commands:9} {median(seconds):7.2f} {max(seconds):6.2f}")
    return "\n".join(lines)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_nothing_is_lost_doubled_or_out_of_order(results: dict[Scenario, Future[Result]], scenario: Scenario) -> None:
    result = results[scenario].result()
    assert result.commands >= 200


def test_every_point_of_the_code_is_one_that_is_forced() -> None:
    """And the other way round: a point that no code passes would be forced in vain."""
    passed = [
        node.args[0].value if isinstance(node.args[0], ast.Constant) else ast.unparse(node.args[0])
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint"
    ]
    assert set(passed) == set(POINTS)


def test_every_point_meets_every_fault_that_makes_sense_there() -> None:
    faults = {point: {s.fault for s in SCENARIOS if s.point == point} for point in POINTS}
    anywhere = {Fault.KILL, Fault.STOP, Fault.RAISE}
    signals, losses = {Fault.TERMINATE, Fault.TERMINATE_TWICE, Fault.INTERRUPT}, {Fault.SILENCE, Fault.RESET}
    assert all(anywhere <= found for found in faults.values())
    assert {point for point, found in faults.items() if not signals <= found} == {"push request", "push reply"}
    assert {point.split()[0] for point, found in faults.items() if losses <= found} == {
        "push",
        "claim",
        "commit",
        "ack",
    }
