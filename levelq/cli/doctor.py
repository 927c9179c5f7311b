"""`levelq doctor`: the same checks as at a worker's start, on Redis, the database and the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text
from typer import Exit

from .screen import count, one_line, out

if TYPE_CHECKING:
    from levelq_core.operations.dbcheck import Finding

_SHOWN = 3  # of what `levelq db check` finds, errors first
_WORDS = {"ok": ("ok", "green"), "warning": ("warn", "bold yellow"), "error": ("FAIL", "bold red")}


def doctor() -> None:
    """Examine Redis, the database and the settings.

    Each line is ok, warn or FAIL, with what to do. Exit code 1 on any FAIL: workers refuse to start on it. Without
    LEVELQ_DATABASE_URL it examines only what a producer needs.
    """
    from levelq_core.operations.checks import check_all

    from .connections import load

    shown = Table.grid(Column(no_wrap=True), Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    findings = list(dict.fromkeys(check_all(load())))
    for finding in _shortened(findings):
        word, style = _WORDS[finding.severity]
        shown.add_row(Text(word, style=style), finding.topic, Text(one_line(_text(finding))))
    out.print(shown)
    raise Exit(1 if any(finding.severity == "error" for finding in findings) else 0)


def _text(finding: Finding) -> str:
    """The finding and its fix; `levelq db check` prints the statements for a schema."""
    if finding.topic == "schema":
        return finding.problem
    return "; ".join((finding.problem, *(line.removeprefix("-- ") for line in finding.fix)))


def _shortened(findings: list[Finding]) -> list[Finding]:
    """All findings, but of the schema only the first ones, errors first, and a count of them all."""
    schema = [finding for finding in findings if finding.topic == "schema" and finding.severity != "ok"]
    if not schema:
        return findings
    at = findings.index(schema[0])
    rest = [finding for finding in findings[at:] if finding not in schema]
    schema.sort(key=lambda finding: finding.severity)
    errors = sum(finding.severity == "error" for finding in schema)
    total = f"{count(errors, 'error')}, {count(len(schema) - errors, 'warning')}"
    summary = schema[0]._replace(problem=f"{total}; `levelq db check` prints the fixes", fix=())
    return [*findings[:at], *schema[:_SHOWN], summary, *rest]
