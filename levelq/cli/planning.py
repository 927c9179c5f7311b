"""`levelq plan`: what a load would take, and what breaks first."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from levelq.capacity.costs import Costs
from levelq.capacity.limits import Limit, limits
from levelq.capacity.load import Load
from levelq.capacity.model import Model, Needs

from .screen import count, out, verdict

Option = typer.Option


def plan(
    users: Annotated[int, Option(help="How many users there are.")],
    rate: Annotated[float, Option(help="Commands a second, averaged over a day.")],
    peak: Annotated[float, Option(help="How many times that at the busiest.")] = 1.0,
    commands_per_lane: Annotated[float, Option(help="Commands of one user that a batch finds together.")] = 1.0,
    commands_per_send: Annotated[float, Option(help="Commands in one call of a producer.")] = 1.0,
    specializations: Annotated[int, Option(help="How many share the load evenly.")] = 3,
    utilisation: Annotated[float, Option(help="How busy a core or a process may be at the peak.")] = 0.6,
    cores: Annotated[int, Option(help="Of one host.")] = 16,
    retention_days: Annotated[float, Option(help="How long the ledger keeps a command.")] = 30.0,
    backlog_seconds: Annotated[float, Option(help="How long PostgreSQL may be away at the peak.")] = 300.0,
    checkpoint_seconds: Annotated[float, Option(help="Between two checkpoints of PostgreSQL.")] = 300.0,
    wal_mb: Annotated[float, Option(help="What one PostgreSQL can log, in MB a second.")] = 250.0,
    disk_tb: Annotated[float, Option(help="What one PostgreSQL can store, in TB.")] = 10.0,
    trip_ms: Annotated[float, Option(help="A round trip between a worker and its database.")] = 0.3,
    costs: Annotated[Path | None, Option(help="Another machine's costs, from python -m benchmarks.scaling.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Reckon what a load would take: workers, Redis shards, PostgreSQL hosts; and what breaks first.

    Arithmetic on costs that were measured, on one machine of two cores unless --costs names another's. Asks no server.
    """
    given = {name: value for name, value in locals().items() if name not in ("costs", "as_json")}
    model = Model(Load.of(**given), Costs.load(costs))
    needs, found = model.needs(), limits(model)
    if as_json:
        out.print(json.dumps(_json(model, needs, found)), markup=False, soft_wrap=True)
        return
    load = model.load
    out.print(
        f"{load.users:,} users, {load.rate:,.0f} commands a second"
        + (f", {load.most:,.0f} at the peak" if load.peak > 1 else "")
        + f", {load.commands_per_lane:g} of a user together, {load.utilisation:.0%} busy at most",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    out.print(_needs_table(model, needs))
    out.print("\nWhat breaks first, with one of each", style="bold")
    out.print(_limits_table(model, found))
    machine = model.costs.machine
    out.print(
        f"Costs measured on {machine.get('cores', '?')} cores ({machine.get('at', '?')}). How far they carry: "
        "docs/scaling.md.",
        style="dim", markup=False, soft_wrap=True,
    )  # fmt: skip


def _json(model: Model, needs: Needs, found: list[Limit]) -> dict[str, Any]:
    each = {
        "worker_turn": model.turn_us,
        "redis": model.redis_us,
        "postgresql": model.postgresql_us,
    }
    return {
        "load": model.load.model_dump(),
        "microseconds_each": each,
        "needs": needs._asdict(),
        "breaks_first": [limit._asdict() | {"rate": _finite(limit.rate)} for limit in found],
    }


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None


def _needs_table(model: Model, needs: Needs) -> Table:
    load, kept = model.load, _size(1e3 * needs.ledger_tb)
    hosts = ", ".join(f"{number:,} for the {part}" for part, number in needs.postgresql_hosts_by.items())
    rows = (
        ("worker processes", f"{needs.workers:,}", f"on {count(needs.worker_hosts, 'host')} of {load.cores} cores"),
        ("Redis nodes", f"{needs.redis_nodes:,}", f"LEVELQ_SHARDS={needs.shards}: one core of each does the scripts"),
        ("memory of Redis", _size(needs.redis_gb), f"all nodes, for {load.backlog_seconds:g} s without PostgreSQL"),
        ("RQ's Redis", f"{needs.wakes:,.0f}/s", f"wake-ups: {needs.wakes * model.costs.wake_us / 1e6:.0%} of a core"),
        ("PostgreSQL hosts", f"{needs.postgresql_hosts:,}", f"by user: {hosts}"),
        ("its connections", f"{needs.postgresql_connections:,}", f"{needs.pooled_connections:,} behind a pooler"),
        ("its log", _size(needs.wal_mb / 1e3) + "/s", _images(model)),
        ("the ledger", _size(needs.ledger_gb_a_day) + "/day", f"{kept} in {_days(load.retention_days)}"),
        ("levelq prune", f"{needs.prunes:,}", "at work all the time, or a ledger partitioned by time"),
    )  # fmt: skip
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify, no_wrap=justify == "right")
    for row in rows:
        table.add_row(*row)
    return table


def _images(model: Model) -> str:
    images = model.page_images()
    return "of it page images: " + ", ".join(f"{name} {_size(amount / 1e9)}/s" for name, amount in images.items())


def _limits_table(model: Model, found: list[Limit]) -> Table:
    """Yellow: what this load is beyond."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for limit in found:
        style = "bold yellow" if limit.rate < model.load.most else "bold"
        rate = f"{limit.rate:,.0f}/s" if math.isfinite(limit.rate) else "never"
        table.add_row(Text(rate, style), verdict(limit.what, style, f": {limit.because}. Then: {limit.remedy}"))
    return table


def _size(gigabytes: float) -> str:
    """Bytes in the unit a person would choose."""
    for unit, size in (("TB", 1e3), ("GB", 1.0), ("MB", 1e-3)):
        if gigabytes >= size:
            return f"{gigabytes / size:,.1f} {unit}"
    return f"{gigabytes * 1e6:,.0f} kB"


def _days(number: float) -> str:
    return "a day" if number == 1 else f"{number:g} days"
