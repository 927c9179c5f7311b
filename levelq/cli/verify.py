"""`levelq verify`: whether the ledger, the tables, the lanes and the recorded sends agree."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

from .options import AsJson, age_of, time_of
from .screen import Listing, count, print_json, print_line, verdict

if TYPE_CHECKING:
    from levelq_core.operations.verify import Check, Report

_HISTORY_HELP = "Recorded sends, as JSON lines; may be repeated."
_AT_REST_HELP = "Nothing may wait any more, or traffic goes on."
_FOREIGN_WRITES_HELP = "The application also writes to the tables: note what that explains."
_PARTIAL_HISTORY_HELP = "Other senders did not record their sends."
_RETENTION_HELP = "Do not look for sends older than this: 30d, 12h."
_SINCE_HELP = "Only what was decided since, and its users' rows: 1d, 12h or 2026-01-31T06:00Z."


def verify(
    history: Annotated[list[Path] | None, Option(metavar="FILE", help=_HISTORY_HELP)] = None,
    at_rest: Annotated[bool, Option("--at-rest/--online", help=_AT_REST_HELP)] = False,
    foreign_writes: Annotated[bool, Option("--foreign-writes", help=_FOREIGN_WRITES_HELP)] = False,
    partial_history: Annotated[bool, Option("--partial-history", help=_PARTIAL_HISTORY_HELP)] = False,
    retention: Annotated[str | None, Option(metavar="AGE", help=_RETENTION_HELP)] = None,
    since: Annotated[str | None, Option(metavar="TIME", help=_SINCE_HELP)] = None,
    limit: Annotated[int, Option(min=1, max=100_000, help="How many violations of each check to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Verify that nothing was lost, doubled, reordered or half done.

    Compares the ledger, the tables, the lanes and, if given, the recorded sends. Changes nothing, and traffic may go
    on. Exit code 1 if any invariant is violated.

    With --since it reads only what was decided since then, for a daily run.
    """
    from levelq_core.operations import verify as operation

    from .connections import database_of, load, redis_of

    horizon = None if retention is None else datetime.now(UTC) - age_of("--retention", retention)
    options = operation.Options(
        tuple(history or ()), at_rest, foreign_writes, partial_history, horizon, limit, time_of("--since", since)
    )
    settings = load()
    with redis_of(settings) as redis, database_of(settings, patient=True) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        report = operation.verify(engine, redis, settings, options)
    if as_json:
        print_json(_json(report))
    else:
        _print(report)
    raise Exit(1 if report.violations else 0)


def _json(report: Report) -> dict[str, Any]:
    return {
        "checks": [_check(check) for check in report.checks if not check.note],
        "notes": [_check(check) for check in report.notes],
        "remarks": report.remarks,
        "violations": report.violations,
    }


def _check(check: Check) -> dict[str, Any]:
    shown = {name: getattr(check, name) for name in ("invariant", "what", "checked", "found", "hint")}
    return {**shown, "examples": [example._asdict() for example in check.examples]}


def _print(report: Report) -> None:
    shown = Listing("Invariant", "Checked", "Cases", "Violations", right=("Cases", "Violations"), folding="Checked")
    for check in report.checks:
        if not check.note:
            style = "bold red" if check.found else ""
            shown.add(check.invariant, check.what, check.checked, check.found, style=style)
    shown.print()
    for check in report.checks:
        if check.violations:
            _print_examples(check, "bold red")
    for check in report.notes:
        print_line(verdict("note:", "bold yellow", f" {check.found:,} x {check.invariant}, {check.what}"))
        _print_examples(check, "yellow")
    for remark in report.remarks:
        print_line(verdict("note:", "bold yellow", f" {remark}"))
    if report.violations:
        broken = ", ".join(sorted(report.broken))
        print_line(verdict(count(report.violations, "violation"), "bold red", f" of {broken}"))
    else:
        print_line("Every invariant holds.", "green")


def _print_examples(check: Check, style: str) -> None:
    """The examples, one a line; how many more there are; what they may mean."""
    for found in check.examples:
        user = None if found.user_id is None else f"user {found.user_id}"
        command = None if found.command_id is None else f"command {found.command_id}"
        subject = ", ".join(filter(None, (user, found.specialization, command)))
        rest = f" {subject}: {found.detail}" if subject else f" {found.detail}"
        print_line(verdict(f"{found.invariant} {found.verdict}:", style, rest))
    more = check.found - len(check.examples)
    if more:
        print_line(f"... and {more:,} more of {check.invariant}, {check.what}")
    if check.hint:
        print_line(check.hint, "dim")
