"""python -m tests.chaos [--seconds 60] [--seed N] [--json FILE] [--keep FOLDER]. Exit code 1 if an invariant broke."""

import argparse
import json
import random
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.running import Result, run
from tests.chaos.world import CLAIM_SECONDS, SWEEP_SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults; default 60")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--keep", type=Path, help="a folder for servers' data, logs and histories, to be kept")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    console = Console(width=110)
    result = run(given.seconds, seed, console, given.keep)
    show(console, result)
    if given.json:
        given.json.write_text(json.dumps(as_object(result), indent=2) + "\n")
    return 0 if result.passed else 1


def by_kind(result: Result) -> dict[str, list[float]]:
    """Recoveries by kind of fault; where two struck at once, in a row of their own."""
    kinds: dict[str, list[float]] = {}
    for name, seconds in result.recoveries.items():
        kinds.setdefault("two at once" if " + " in name else name, []).extend(seconds)
    return dict(sorted(kinds.items(), key=lambda kind: (kind[0] == "two at once", kind[0])))


def show(console: Console, result: Result) -> None:
    shown = Table("fault", "times", "recovered after, median", "worst", title_justify="left")
    for name, seconds in by_kind(result).items():
        shown.add_row(name, str(len(seconds)), f"{median(seconds):.1f} s", f"{max(seconds):.1f} s")
    console.print(shown)
    sends = result.sends
    console.print(
        f"{result.decided:,} commands decided; sends: {sends['acknowledged']:,} acknowledged,"
        f" {sends['refused']:,} refused, {sends['unknown']:,} never answered"
    )
    console.print(
        f"{result.looks:,} looks at both tables, {result.apart} pairs out of step;"
        f" {result.online} checks beside the traffic, one at rest"
    )
    for violation in result.violations:
        console.print(f"[bold red]{violation.invariant} {violation.verdict}[/] {violation}", markup=True)
    verdict = "[green]no violation[/]" if result.passed else "[bold red]VIOLATED[/]"
    console.print(f"{verdict} · repeat it: make chaos SECONDS={result.seconds:g} SEED={result.seed}")


def as_object(result: Result) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "seconds": result.seconds,
        "claim_seconds": CLAIM_SECONDS,
        "sweep_seconds": SWEEP_SECONDS,
        "faults": dict(sorted(result.struck.items())),
        "recovery_seconds": {name: [round(s, 2) for s in seconds] for name, seconds in by_kind(result).items()},
        "outbox_recovery_seconds": [round(s, 2) for s in result.outbox_seconds],
        "decided": result.decided,
        "sends": dict(result.sends),
        "looks": result.looks,
        "out_of_step": result.apart,
        "checks": {check.what: check.checked for check in result.report.checks if not check.note},
        "violations": [str(violation) for violation in result.violations],
    }


if __name__ == "__main__":
    sys.exit(main())
