"""`levelq db upgrade` and `levelq db check`: the tables of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from typer import Exit, Option, echo

from .audit import note
from .screen import count, err, out, print_line, printable, verdict

if TYPE_CHECKING:
    from levelq_core.operations.dbcheck import Finding


def upgrade(
    sql: Annotated[
        bool, Option("--sql", help="Print the statements for this database as it is, and run none.")
    ] = False,
) -> None:
    """Create the tables that are missing; change none that exists."""
    from sqlalchemy import inspect

    from levelq_core.database import migrations
    from levelq_core.database.schema import REQUIRED, read
    from levelq_core.redis_client.url_options import redacted

    from .connections import database_of, load

    settings = load()
    url = redacted(settings.database_url or "")
    with database_of(settings) as engine:
        if sql:
            _print_sql(migrations.upgrade_sql(engine), url)
            return
        before = set(inspect(engine).get_table_names())
        with engine.connect() as connection:
            elsewhere = read(connection).elsewhere
        migrations.upgrade(engine)
        created = set(inspect(engine).get_table_names()) - before
    print_line(f"Tables in {url}")
    for name in REQUIRED:
        result = Text("created", style="green") if name in created else Text("left as it was", style="dim")
        if name in created and name in elsewhere:
            schemas = printable(", ".join(elsewhere[name]))
            result += Text(f"; there is another in schema {schemas}, outside the search path", style="yellow")
        print_line(Text(f"  {name:<26}") + result)
    if created:
        note(settings, "db upgrade", "tables", {"created": sorted(created)})
    if not created.issuperset(REQUIRED):
        print_line("Run `levelq db check` to see whether the others have all that levelq needs.")


def _print_sql(script: str, url: str) -> None:
    """Only the script goes to stdout, for a file or for psql."""
    echo(script or "-- nothing to do: the database is at this version of levelq", nl=not script)
    hint = f"For {url} as it is now. Run them with: psql --set ON_ERROR_STOP=1 --file FILE"
    print_line(hint if script else f"Nothing to do in {url}", on=err)


def check(
    sql: Annotated[
        bool, Option("--sql", help="Print a script for psql: the statements, and the rest as comments.")
    ] = False,
) -> None:
    """Report what the database lacks or what makes it unsafe.

    Changes nothing, but prints the fixes: statements, levelq commands, and, beginning with --, what only you can know
    or do. Exit code 1 if workers would refuse to start, inserts would fail, or commits could be lost.
    """
    from levelq_core.operations import dbcheck

    from .connections import database_of, load

    settings = load()
    with database_of(settings) as engine, engine.connect() as connection:
        findings = dbcheck.check(connection, settings.tracks)
    for finding in findings:
        _print_script(finding) if sql else _print_finding(finding)
    errors = sum(finding.severity == "error" for finding in findings)
    stream = err if sql else out
    if not findings:
        print_line("The database has all that levelq needs, and commits are safe there.", "green", on=stream)
        return
    summary = f"{count(errors, 'error')}, {count(len(findings) - errors, 'warning')}"
    print_line(f"{summary}. After fixing: levelq db check", "bold", on=stream)
    raise Exit(1 if errors else 0)


def _print_finding(finding: Finding) -> None:
    """The problem, and below it the fix, each statement on a line of its own, ready to be copied."""
    style = "bold red" if finding.severity == "error" else "bold yellow"
    out.print(verdict(f"{finding.severity}:", style, f" {finding.problem}"))
    for line in map(printable, finding.fix):
        print_line(f"    {line}", "dim" if line.startswith("--") else "cyan")
    out.print()


def _print_script(finding: Finding) -> None:
    """The same as SQL. Nothing in it can end a comment early, as each line is printable text."""
    echo(f"-- {finding.severity}: {printable(finding.problem)}")
    for line in map(printable, finding.fix):
        echo(f"-- at a shell: {line}" if line.startswith("levelq ") else line)
    echo()
