"""`levelq verify`: whether the ledger, the tables, the lanes and the recorded sends agree."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AsJson, age_of
from .screen import Listing, count, print_line, verdict

if TYPE_CHECKING:
    from levelq_core.operations.verify import Check, Report


def verify(
    history: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Recorded sends, as JSON lines; may be repeated."),
    ] = None,
    at_rest: Annotated[
        bool, typer.Option("--at-rest/--online", help="Nothing may wait any more, or traffic goes on.")
    ] = False,
    foreign_writes: Annotated[
        bool,
        typer.Option("--foreign-writes", help="The application also writes to the tables: note what that explains."),
    ] = False,
    partial_history: Annotated[
        bool, typer.Option("--partial-history", help="Other senders did not record their sends.")
    ] = False,
    retention: Annotated[
        str | None, typer.Option(metavar="AGE", help="Do not look for sends older than this: 30d, 12h.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only what was decided since, and its users' rows: 1d, 12h or 2026-01-31T06:00Z."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many violations of each check to list.")] = 20,
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
        tuple(history or ()), at_rest, foreign_writes, partial_history, horizon, limit, since_of(since)
    )
    settings = load()
    with redis_of(settings) as redis, database_of(settings) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        report = operation.verify(engine, redis, settings, options)
    if as_json:
        typer.echo(json.dumps(_json(report), default=str))
    else:
        _print(report)
    if report.violations:
        raise typer.Exit(1)


def since_of(text: str | None) -> datetime | None:
    """Read the time of --since: an age (1d, 12h), or ISO 8601, in UTC unless it names a zone.

    Raises ConfigurationError, also for a time in the future.
    """
    from levelq_core.errors import ConfigurationError

    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text.strip())
        since = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        try:
            since = now - age_of("--since", text)
        except ConfigurationError:
            raise ConfigurationError(
                f"--since: expected an age like 1d or 12h, or a time like 2026-01-31T06:00Z, got {text!r}"
            ) from None
    if since > now:
        raise ConfigurationError(f"--since: expected a time in the past, got {text!r}")
    return since


def _json(report: Report) -> dict[str, Any]:
    return {
        "checks": [_check(check) for check in report.checks if not check.note],
        "notes": [_check(check) for check in report.notes],
        "remarks": report.remarks,
        "violations": report.violations,
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "invariant": check.invariant,
        "what": check.what,
        "checked": check.checked,
        "found": check.found,
        "hint": check.hint,
        "examples": [example._asdict() for example in check.examples],
    }


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
        named = (
            f"user {found.user_id}" if found.user_id is not None else "",
            found.specialization or "",
            f"command {found.command_id}" if found.command_id is not None else "",
        )
        subject = ", ".join(filter(None, named))
        rest = f" {subject}: {found.detail}" if subject else f" {found.detail}"
        print_line(verdict(f"{found.invariant} {found.verdict}:", style, rest))
    more = check.found - len(check.examples)
    if more:
        print_line(f"... and {more:,} more of {check.invariant}, {check.what}")
    if check.hint:
        print_line(check.hint, "dim")
