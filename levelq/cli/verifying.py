"""`levelq verify`: does what the ledger, the tables, the lanes and the producers say fit together?"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from levelq_core.errors import ConfigurationError
from levelq_core.operations.verify import Check, Options, Report, Violation
from levelq_core.operations.verify import verify as run

from .connecting import database_of, load, redis_of
from .pruning import age_of
from .screen import Listing, count, out, verdict


def verify(
    history: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Recorded sends, as JSON lines; may be repeated."),
    ] = None,
    at_rest: Annotated[
        bool, typer.Option("--at-rest/--online", help="Nothing may wait any more, or traffic flows meanwhile.")
    ] = False,
    foreign_writes: Annotated[
        bool,
        typer.Option("--foreign-writes", help="The application writes to the tables, too: note it, do not object."),
    ] = False,
    partial_history: Annotated[
        bool, typer.Option("--partial-history", help="Others sent, too, without recording it.")
    ] = False,
    retention: Annotated[
        str | None, typer.Option(metavar="AGE", help="Sends older than this are not looked for: 30d, 12h.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only what was decided since then, and its users' rows: 1d, 12h, or 2026-01-31T06:00Z."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many violations of each check to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Verify that nothing was lost, doubled, reordered or half done.

    Compares the ledger, the tables, the lanes and the recorded sends, if given. Changes nothing, and needs
    no pause of the traffic. Exit code 1 if any invariant is violated.

    With --since it reads only what was decided since then, which suits a daily run.
    """
    horizon = None if retention is None else datetime.now(UTC) - age_of("--retention", retention)
    options = Options(tuple(history or ()), at_rest, foreign_writes, partial_history, horizon, limit, since_of(since))
    settings = load()
    with redis_of(settings) as redis, database_of(settings) as engine:
        engine.connect().close()  # what is unreachable is said with its address
        report = run(engine, redis, settings, options)
    if as_json:
        typer.echo(json.dumps(_as_object(report)))
    else:
        _print(report)
    if report.violations:
        raise typer.Exit(1)


def since_of(text: str | None) -> datetime | None:
    """Read the time of --since: an age (1d, 12h), or ISO 8601, in UTC unless it says otherwise.

    Raises ConfigurationError, also for a time in the future.
    """
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


def _as_object(report: Report) -> dict[str, Any]:
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
        "examples": [_example(example) for example in check.examples],
    }


def _example(example: Violation) -> dict[str, Any]:
    command_id = None if example.command_id is None else str(example.command_id)
    return example._asdict() | {"command_id": command_id}


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
        out.print(
            verdict("note:", "bold yellow", f" {check.found:,} x {check.invariant}, {check.what}"), soft_wrap=True
        )
        _print_examples(check, "yellow")
    for remark in report.remarks:
        out.print(verdict("note:", "bold yellow", f" {remark}"), soft_wrap=True)
    if report.violations:
        broken = ", ".join(sorted(report.broken))
        out.print(verdict(count(report.violations, "violation"), "bold red", f" of {broken}"), soft_wrap=True)
    else:
        out.print("Every invariant holds.", style="green")


def _print_examples(check: Check, style: str) -> None:
    """The kept examples, one a line; how many more there are; what they may mean."""
    for found in check.examples:
        place = [
            f"user {found.user_id}" if found.user_id is not None else "",
            found.specialization or "",
            f"command {found.command_id}" if found.command_id is not None else "",
        ]
        subject = ", ".join(part for part in place if part)
        rest = f" {subject}: {found.detail}" if subject else f" {found.detail}"
        out.print(verdict(f"{found.invariant} {found.verdict}:", style, rest), soft_wrap=True)
    more = check.found - len(check.examples)
    if more:
        out.print(f"... and {more:,} more of {check.invariant}, {check.what}", markup=False, soft_wrap=True)
    if check.hint:
        out.print(check.hint, style="dim", markup=False)
