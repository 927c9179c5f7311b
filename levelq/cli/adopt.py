"""`levelq adopt`: put a whole database in order; and what `levelq sync --all` shares with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from typer import Exit, Option

from .options import AnySource, DryRun, JsonWithoutQuestion, Yes
from .screen import Listing, confirm, count, duration, err, never_ask, print_json, print_line, printable, verdict

if TYPE_CHECKING:
    from levelq_core.operations.drift.adoption import Adoption, Repaired
    from levelq_core.operations.drift.plan import RepairPlan
    from levelq_core.settings import Settings

_KINDS = {
    "out_of_step": "levels out of step",
    "no_license": "license missing",
    "no_progress": "progress missing",
    "misspelt": "misspelt names",
    "duplicates": "several rows of a pair",
    "null_level": "level is NULL",
    "no_constraint": "no unique constraint",
    "unnamed": "no user or name",
    "unknown_name": "unknown names",
    "no_user": "no such user",
    "no_level": "no level to copy",
}

Rate = Annotated[int, Option("--rate", min=1, help="How many pairs or rows to repair in a second, at most.")]


def adopt(
    source: Annotated[
        AnySource, Option(metavar="SIDE", help="higher, progress or license: the level that is copied.")
    ] = AnySource.HIGHER,
    rate: Rate = 2_000,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: JsonWithoutQuestion = False,
) -> None:
    """Put the rows of a whole database in order, so that levelq can work on them.

    Finds levels out of step, missing rows, names that are not in upper case, several rows of one pair, levels that are
    NULL and missing unique constraints. Shows the plan, asks, and repairs in small transactions at a bounded rate.
    Workers and applications may run meanwhile. If it is interrupted, run it again: it goes on where it stopped. Exit
    code 1 if something is left, but for names that are not in the catalog.
    """
    from levelq_core.operations.drift.adoption import Adoption

    from .connections import database_of, load

    never_ask(as_json, yes=yes or dry_run)
    settings = load()
    with database_of(settings, patient=True) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        repair(Adoption(engine, settings, source.value, rate=rate), settings, yes=yes, dry_run=dry_run, as_json=as_json)


def repair(adoption: Adoption, settings: Settings, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Show the plan, ask, repair, and check again. Raises Exit with 1 if something is left, or would be repaired.

    Names that are not in the catalog do not count: levelq leaves them alone.
    """
    plan = adoption.plan()
    if not as_json:
        _print_plan(plan)
    done: Repaired | None = None
    left = plan
    if plan.total and not dry_run:
        confirm(f"Repair {'this' if plan.total == 1 else f'these {plan.total:,}'}?", yes=yes)
        with _progress(plan.total, quiet=as_json) as step:
            done = adoption.run(step)
        _have_audited(settings)
        left = adoption.plan()
    if as_json:
        result = None if done is None else {"repaired": done.repaired, "failed": done.failed, "seconds": done.seconds}
        found = {"dry_run": dry_run, "plan": plan, "done": result, "left": left}
        print_json(found)
    elif done is not None:
        _print_done(done, left)
    raise Exit(1 if any(planned.kind != "unknown_name" for planned in left.repairs) else 0)


def _print_plan(plan: RepairPlan) -> None:
    if not plan.repairs:
        print_line(verdict("Every pair of levels is in step", "green", f": {count(plan.pairs, 'pair')} compared."))
        return
    shown = Listing("Found", "How many", "What will be done", right=("How many",), folding="What will be done")
    for planned in plan.repairs:
        where = f"{planned.table}: " if planned.table else ""
        style = "" if planned.repaired else "dim"
        action = Text(f"{where}{planned.action}", style)
        action.append(f"\n{printable(', '.join(planned.examples))}", style="dim")
        shown.add(_KINDS[planned.kind], planned.number, action, style=style)
    shown.print()
    left = f", {plan.left:,} left as they are" if plan.left else ""
    print_line(f"{count(plan.pairs, 'pair')} compared: {plan.total:,} to repair{left}")


def _print_done(done: Repaired, left: RepairPlan) -> None:
    rate = f", {done.total / done.seconds:,.0f} a second" if done.seconds >= 1 else ""
    print_line(verdict("repaired", "bold green", f"  {done.total:,} in {duration(done.seconds)}{rate}"))
    for why, number in done.failed.items():
        print_line(verdict("failed", "bold red", f"  {number:,}: {why}"))
    if done.failed:
        print_line("What failed is as it was; remove the cause and run this again.")
    if left.repairs:
        print_line("A last look found:")
    _print_plan(left)


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line for each tenth."""
    if err.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("repairing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda repaired: bar.advance(task, repaired)
        return
    done = 0

    def step(repaired: int) -> None:
        nonlocal done
        tenth = 10 * done // total
        done += repaired
        if not quiet and 10 * done // total > tenth:
            print_line(f"repaired {done:,} of {total:,}")
            sys.stdout.flush()

    yield step


def _have_audited(settings: Settings) -> None:
    """Have a worker audit soon, where Redis answers: `levelq status` shows what the last audit found."""
    from levelq_core.errors import ConfigurationError
    from levelq_core.lanes.drift_report import request_audit

    from .connections import redis_of

    with suppress(ConfigurationError), redis_of(settings) as redis:
        request_audit(redis, settings.keys)
