"""Estimate what a load would take, and what breaks first: `make plan USERS=10_000_000 RATE=100_000`.

Arithmetic on measured costs: those of one machine with two cores, or of the file that --costs names. It needs
no server. How far the numbers carry: docs/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from levelq.cli.screen import count
from levelq_core.errors import ConfigurationError

from .costs import Costs
from .limits import Limit, limits
from .load import Load
from .model import Model, Needs

PIPED_WIDTH = 200


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the estimate. A wrong option ends the process with code 2 and a line that names it."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    costs, as_json = given.pop("costs"), given.pop("json")
    try:
        model = Model(Load.of(**given), Costs.load(costs))
        needs, found = model.needs(), limits(model)
    except ConfigurationError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    if as_json:
        print(json.dumps(_json(model, needs, found)))
    else:
        _print(model, needs, found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "benchmarks.capacity", "%(prog)s --users N --rate N [options]", "Estimate what a load would take."
    )
    for name, field in Load.model_fields.items():
        default = "required" if field.is_required() else f"default: {field.default:g}"
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int if field.annotation is int else float, required=field.is_required(),
            default=field.get_default(), metavar="N", help=f"{field.description} ({default})",
        )  # fmt: skip
    parser.add_argument("--costs", type=Path, metavar="FILE", help="another machine's costs, see make scaling")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _print(model: Model, needs: Needs, found: list[Limit]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    load, machine = model.load, model.costs.machine
    peak = f", {load.most:,.0f} at the peak" if load.peak > 1 else ""
    console.print(
        f"{load.users:,} users, {load.rate:,.0f} commands a second{peak}, "
        f"{load.commands_per_lane:g} of a user together, {load.utilisation:.0%} busy at most",
        soft_wrap=True,
    )
    console.print(_needs_table(model, needs))
    console.print("\nWhat breaks first, with one of each", style="bold")
    console.print(_limits_table(model, found))
    measured = f"Costs measured on {machine.get('cores', '?')} cores ({machine.get('at', '?')})."
    console.print(f"{measured} How far they carry: docs/scaling.md.", style="dim", soft_wrap=True)


def _json(model: Model, needs: Needs, found: list[Limit]) -> dict[str, Any]:
    return {
        "load": model.load.model_dump(),
        "microseconds_each": {"worker_turn": model.turn_us, "redis": model.redis_us, "postgresql": model.postgresql_us},
        "needs": needs._asdict(),
        "breaks_first": [
            limit._asdict() | {"rate": limit.rate if math.isfinite(limit.rate) else None} for limit in found
        ],
    }


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
    """Yellow: limits that this load exceeds."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for limit in found:
        style = "bold yellow" if limit.rate < model.load.most else "bold"
        rate = f"{limit.rate:,.0f}/s" if math.isfinite(limit.rate) else "never"
        table.add_row(Text(rate, style), Text.assemble((limit.what, style), f": {limit.because}. Then: {limit.remedy}"))
    return table


def _size(gigabytes: float) -> str:
    """Bytes in the unit a person would choose."""
    for unit, size in (("TB", 1e3), ("GB", 1.0), ("MB", 1e-3)):
        if gigabytes >= size:
            return f"{gigabytes / size:,.1f} {unit}"
    return f"{gigabytes * 1e6:,.0f} kB"


def _days(number: float) -> str:
    return "a day" if number == 1 else f"{number:g} days"


if __name__ == "__main__":
    main()
