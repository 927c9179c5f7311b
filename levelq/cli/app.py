"""All commands by name, and the one place where an error becomes one line and an exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.database.sqlstate import in_words
from levelq_core.errors import ConfigurationError, LevelqError

from . import (
    cancelling,
    checking,
    databases,
    doctor,
    forgetting,
    loading,
    looking,
    namespaces,
    overview,
    planning,
    pruning,
    rebuilding,
    running,
    sending,
    sharding,
    verifying,
)
from .screen import err, one_line, verdict

# What the command line made of its arguments, in whichever library typer builds on.
_Usage: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="levelq",
    help="Level-ups under heavy traffic: progress and license move together, exactly once, in order, in batches.",
    epilog="Settings come from the environment, LEVELQ_REDIS_URL and LEVELQ_DATABASE_URL first. "
    "Start with: levelq doctor",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="Create the tables, look for what is wrong with them.", rich_markup_mode="rich")
namespace = typer.Typer(help="Which database the Redis keys are bound to.", rich_markup_mode="rich")


def _register(group: typer.Typer, command: Callable[..., None], example: str) -> None:
    """The docstring is the help text; its lines are folded anew to the terminal's width."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    help_text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    group.command(help=help_text, epilog=f"Example:  [bold]{example}[/bold]")(command)


_register(app, running.demo, "levelq demo --users 1000 --commands 50000")
_register(app, running.up, "levelq up --data levelq-data")
_register(app, running.worker, "levelq worker --processes 2")
_register(app, sending.send, "levelq send level-up 42 PLAYER --xp 150 --reason 'Won a match'")
_register(app, overview.status, "levelq status --json")
_register(app, looking.history, "levelq history 42 --limit 10")
_register(app, checking.check, "levelq check")
_register(app, checking.sync, "levelq sync 42 PLAYER --source license")
_register(app, rebuilding.rebuild, "levelq rebuild PLAYER")
_register(app, sharding.shards, "levelq shards PLAYER 8")
_register(app, looking.catalog, "levelq catalog")
_register(app, doctor.doctor, "levelq doctor")
_register(app, verifying.verify, "levelq verify --history sends.jsonl --at-rest")
_register(app, loading.loadtest, "levelq loadtest --scenario contention --seconds 30 --out report.html")
_register(app, cancelling.cancel, "levelq cancel 42 PLAYER --id 0196f0a0-0000-7000-8000-000000000000")
_register(app, cancelling.purge, "levelq purge PLAYER --dry-run")
_register(app, forgetting.forget, "levelq forget 42 --dry-run")
_register(app, pruning.prune, "levelq prune --older-than 30d --dry-run")
_register(app, planning.plan, "levelq plan --users 10_000_000 --rate 100_000")
app.add_typer(db, name="db")
_register(db, databases.upgrade, "levelq db upgrade")
_register(db, databases.check, "levelq db check")
app.add_typer(namespace, name="namespace")
_register(namespace, namespaces.show, "levelq namespace show")
_register(namespace, namespaces.rebind, "levelq namespace rebind --dry-run")

_show_traceback = False


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version_: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose, to report a bug.")] = False,
) -> None:
    global _show_traceback  # noqa: PLW0603 - read after the command has failed, outside typer
    _show_traceback = traceback
    if version_:
        typer.echo(f"levelq {version('levelq')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. An error becomes one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows few characters is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(app(arguments, prog_name="levelq", standalone_mode=False) or 0)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except (ModuleNotFoundError, BrokenPipeError):
        raise
    except Exception as error:
        if _show_traceback:
            raise
        for line in explain(error):
            err.print(verdict("levelq: ", "bold red", line), soft_wrap=True)
        return 2


def explain(error: Exception) -> list[str]:
    """What is wrong and what to do next, one line each: of most errors it is one line."""
    return [one_line(why) for why in error.reasons] if isinstance(error, ConfigurationError) else [_explain(error)]


def _explain(error: Exception) -> str:
    if isinstance(error, _Usage):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return one_line(error.format_message()) + hint
    if isinstance(error, LevelqError):
        return one_line(str(error))
    if isinstance(error, SQLAlchemyError):
        return f"LEVELQ_DATABASE_URL: {one_line(in_words(error))}"
    if isinstance(error, OSError):
        return one_line(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return f"{type(error).__name__}: {one_line(str(error))}; this is a bug: `levelq --traceback ...` shows where"
