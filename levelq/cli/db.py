"""`levelq db upgrade`, `check` and `enforce`: the tables of the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from typer import Exit, Option, echo

from .audit import note
from .options import DryRun, Yes
from .screen import confirm, count, err, out, print_line, printable, refused, verdict

if TYPE_CHECKING:
    from levelq_core.operations.dbcheck import Finding
    from levelq_core.operations.readings.enforcement import Enforcement


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
    with database_of(settings, patient=True) as engine:
        if sql:
            how = f"For {url} as it is now. Run them with: psql --set ON_ERROR_STOP=1 --file FILE"
            at = ": the database is at this version of levelq"
            _print_sql(migrations.upgrade_sql(engine), how, f"Nothing to do in {url}", at)
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


def enforce(
    report: Annotated[
        bool, Option("--report", help="Only show whether it is in force, and how many pairs are out of step.")
    ] = False,
    off: Annotated[bool, Option("--off", help="Remove it.")] = False,
    sql: Annotated[bool, Option("--sql", help="Print the statements, for psql or Alembic, and run none.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Make the database refuse each transaction that would commit a pair of different levels, whoever runs it.

    Two constraint triggers on specialization_progress and on user_licenses check, at COMMIT, each pair whose level or
    key has changed. The error has SQLSTATE 23514 and names the constraint levelq_pair_in_step. While pairs are out of
    step, it is not put in force. Workers and the application may keep running.
    """
    from levelq_core.operations import enforcement
    from levelq_core.operations.readings.enforcement import read_enforcement

    from .connections import database_of, load

    if report and (off or sql):
        raise refused("--report: expected without --off and --sql, because it only shows")
    with database_of(load(), patient=True) as engine:
        with engine.connect() as connection:
            if sql:
                how = "Run them in one transaction: psql --single-transaction --set ON_ERROR_STOP=1 --file FILE"
                _print_sql(enforcement.enforcement_sql(connection, on=not off), how, "Nothing to do")
                found = read_enforcement(connection)
                if found.out_of_step and not off:
                    print_line(f"First repair the {count(found.out_of_step, 'pair')} out of step: levelq adopt", on=err)
                return
            found = read_enforcement(connection, pairs=report or not off)
        if report:
            _print_enforcement(found)
            raise Exit(1 if found.state == "partly" or found.out_of_step else 0)
        if found.state == ("off" if off else "on"):
            _print_enforcement(found)
            return
        if found.out_of_step and not off:
            raise refused(enforcement.refusal(found.out_of_step))
        for line in _REMOVES if off else _PUTS_IN_FORCE:
            print_line(line)
        print_line("Writers of the two tables wait until it is done, half a second at most.")
        if dry_run:
            return
        confirm("Remove it?" if off else "Put it in force?", yes=yes)
        found = enforcement.enforce(engine, on=not off)
    _print_enforcement(found)
    raise Exit(1 if found.out_of_step and not off else 0)


_PUTS_IN_FORCE = (
    "From then on a transaction that changes a level, or makes a row, fails at COMMIT",
    "if it leaves progress and license of a pair at different levels.",
)
_REMOVES = ("From then on any code may commit progress and license at different levels.",)
_STYLES = {"on": "green", "off": "yellow", "partly": "bold red"}


def _print_enforcement(found: Enforcement) -> None:
    from levelq_core.operations.readings.enforcement import SENTENCES

    print_line(verdict(found.state, _STYLES[found.state], f": {SENTENCES[found.state]}"))
    for table in found.tables:
        print_line(f"  {table.table:<26}{table.state}")
    if found.state == "partly":
        print_line("Make it whole with `levelq db enforce`, or remove it with `levelq db enforce --off`.")
    if found.out_of_step is not None:
        print_line(f"{count(found.out_of_step, 'pair')} out of step", "bold red" if found.out_of_step else "")
    if found.out_of_step:
        print_line("`levelq check` lists them, `levelq adopt` repairs them.")
        if found.state != "off":
            print_line("A transaction that changes a level of such a pair must leave both equal.")


def _print_sql(script: str, how: str, nothing: str, why: str = "") -> None:
    """Only the script goes to stdout, for a file or for psql; to stderr `how` to run it, or that there is `nothing`."""
    echo(script or f"-- nothing to do{why}", nl=not script)
    print_line(how if script else nothing, on=err)


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
    from levelq_core.operations.readings.enforcement import SENTENCES, is_enforced

    from .connections import database_of, load

    settings = load()
    with database_of(settings, patient=True) as engine, engine.connect() as connection:
        findings = dbcheck.check(connection, settings.tracks)
        enforced = is_enforced(connection)
    for finding in findings:
        _print_script(finding) if sql else _print_finding(finding)
    errors = sum(finding.severity == "error" for finding in findings)
    stream = err if sql else out
    if enforced:
        print_line(f"levelq db enforce is on: {SENTENCES['on']}.", on=stream)
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
