"""`levelq doctor`: is everything levelq stands on as it must be?"""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from levelq_core.operations.checks import check_all
from levelq_core.operations.dbcheck import Finding

from .connecting import load
from .screen import count, one_line, out

_SHOWN = 3  # of what `levelq db check` finds, errors first
_WORDS = {"ok": ("ok", "green"), "warning": ("warn", "bold yellow"), "error": ("FAIL", "bold red")}


def doctor() -> None:
    """Examine Redis, the database and the settings.

    Each line is ok, warn or FAIL, with what to do. Exit code 1 on any FAIL: workers refuse to start on it. Without
    LEVELQ_DATABASE_URL only what a producer needs is looked at.
    """
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    findings = list(dict.fromkeys(check_all(load())))
    for finding in _some(findings):
        word, style = _WORDS[finding.severity]
        shown.add_row(Text(word, style=style), finding.topic, Text(one_line(_told(finding))))
    out.print(shown)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _told(finding: Finding) -> str:
    """The finding, and what mends it; `levelq db check` prints the statements for a schema."""
    if finding.topic == "schema":
        return finding.problem
    return "; ".join((finding.problem, *(line.removeprefix("-- ") for line in finding.fix)))


def _some(findings: list[Finding]) -> list[Finding]:
    """The findings, but of the schema only the first errors and warnings, with a count of all."""
    schema = [finding for finding in findings if finding.topic == "schema" and finding.severity != "ok"]
    if not schema:
        return findings
    schema.sort(key=lambda finding: finding.severity)
    errors = sum(finding.severity == "error" for finding in schema)
    told = f"{count(errors, 'error')}, {count(len(schema) - errors, 'warning')}"
    sum_ = Finding(schema[0].severity, f"{told}; `levelq db check` prints what mends them")
    at = min(map(findings.index, schema))
    rest = [finding for finding in findings[at:] if finding not in schema]
    return [*findings[:at], *schema[:_SHOWN], sum_, *rest]
