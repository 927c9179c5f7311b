"""`levelq db ...`: the tables of the database."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy import Engine, inspect

from levelq_core.database.schema import REQUIRED, read
from levelq_core.operations import dbcheck
from levelq_core.operations.dbcheck import Finding
from levelq_core.settings import Settings, redacted
from levelq_core.untrusted_text import printable

from .connecting import database_of, load
from .screen import count, err, out, verdict


def upgrade(
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the statements for this database as it is, and run none.")
    ] = False,
) -> None:
    """Create the tables that are absent; change none that exists."""
    from levelq_core.database import migrations  # noqa: PLC0415 - a quarter of a second that only this command pays

    settings = load()
    if sql:
        with database_of(settings) as engine:
            _print_sql(migrations.upgrade_sql(engine), settings)
        return
    with database_of(settings) as engine:
        before = _tables(engine)
        with engine.connect() as connection:
            others = read(connection).elsewhere
        migrations.upgrade(engine)
        created = _tables(engine) - before
    out.print(f"Tables in {redacted(settings.database_url or '')}", markup=False, soft_wrap=True)
    for name in REQUIRED:
        fate = Text("created", style="green") if name in created else Text("left as it was", style="dim")
        if name in created and name in others:
            where = ", ".join(others[name])
            fate += Text(f"; there is another in schema {printable(where)}, outside the search path", style="yellow")
        out.print(Text(f"  {name:<26}") + fate, soft_wrap=True)
    if len(created) < len(REQUIRED):
        out.print("`levelq db check` looks whether those that were there have all that levelq needs.", soft_wrap=True)


def _print_sql(script: str, settings: Settings) -> None:
    """The script on stdout, and nothing else there: it goes into a file, or into psql."""
    typer.echo(script or "-- nothing to do: the database is at this version of levelq", nl=not script)
    where = redacted(settings.database_url or "")
    if script:
        hint = f"For {where} as it is now. Run them with: psql --set ON_ERROR_STOP=1 --file FILE"
    else:
        hint = f"Nothing to do in {where}"
    err.print(hint, markup=False, soft_wrap=True)


def _tables(engine: Engine) -> set[str]:
    """Which of our tables are there, looked for as the migration does."""
    return set(inspect(engine).get_table_names()) & set(REQUIRED)


def check(
    sql: Annotated[
        bool, typer.Option("--sql", help="Print a script for psql: the statements, and the rest as comments.")
    ] = False,
) -> None:
    """Look for what the database lacks or what makes it unsafe.

    Changes nothing, but prints what mends it: statements, levelq commands, and, beginning with --, what only you can
    know or do. Exit code 1 if workers would refuse to start, inserts would fail, or commits could be lost.
    """
    settings = load()
    with database_of(settings) as engine, engine.connect() as connection:
        findings = dbcheck.check(connection, settings.tracks)
    for finding in findings:
        _print_script(finding) if sql else _show(finding)
    errors = sum(finding.severity == "error" for finding in findings)
    told = err if sql else out
    if not findings:
        told.print("The database has all that levelq needs, and commits are safe there.", style="green", soft_wrap=True)
        return
    summary = f"{count(errors, 'error')}, {count(len(findings) - errors, 'warning')}"
    told.print(f"{summary}. After mending: levelq db check", style="bold", markup=False, soft_wrap=True)
    if errors:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    """The problem, and below it what mends it, each statement on a line of its own, ready to be copied."""
    style = "bold red" if finding.severity == "error" else "bold yellow"
    out.print(verdict(f"{finding.severity}:", style, f" {finding.problem}"))
    for line in _lines(finding):
        out.print(Text(f"    {line}", style="dim" if line.startswith("--") else "cyan"), soft_wrap=True)
    out.print()


def _print_script(finding: Finding) -> None:
    """The same as SQL. Nothing in it can end a comment early, as each line is printable text."""
    typer.echo(f"-- {finding.severity}: {printable(finding.problem)}")
    for line in _lines(finding):
        typer.echo(f"-- at a shell: {line}" if line.startswith("levelq ") else line)
    typer.echo()


def _lines(finding: Finding) -> list[str]:
    return [printable(line) for line in finding.fix]
