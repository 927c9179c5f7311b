"""All commands by name, and the code that turns an error into one line and an exit code."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .cancel import cancel
from .catalog import catalog
from .check import check
from .db import check as db_check
from .db import upgrade
from .demo import demo
from .doctor import doctor
from .forget import forget
from .history import history
from .loadtest import loadtest
from .namespace import rebind, show
from .prune import prune
from .purge import purge
from .rebuild import rebuild
from .screen import err, one_line, print_line, verdict
from .send import send
from .shards import shards
from .status import status
from .sync import sync
from .up import up
from .verify import verify
from .worker import worker

# click's UsageError, of click itself or of the copy that newer versions of typer contain.
_UsageError: Any = typer.BadParameter.__mro__[2]

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
db = typer.Typer(help="Create levelq's tables, or check the database.", rich_markup_mode="rich")
namespace = typer.Typer(help="Show or change the database that the Redis keys are bound to.", rich_markup_mode="rich")


def _register(group: typer.Typer, panel: str | None, command: Callable[..., None], example: str) -> None:
    """The docstring is the help text; its paragraphs are wrapped to the terminal's width."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    help_text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    name = example.split()[1 if group is app else 2]
    group.command(name, help=help_text, epilog=f"Example:  [bold]{example}[/bold]", rich_help_panel=panel)(command)


_PANELS: dict[str, list[tuple[Callable[..., None], str]]] = {
    "Servers and workers": [
        (demo, "levelq demo --users 1000 --commands 50000"),
        (up, "levelq up --data levelq-data"),
        (worker, "levelq worker --processes 2"),
        (loadtest, "levelq loadtest --scenario contention --seconds 30 --out report.html"),
    ],
    "Commands and their outcomes": [
        (send, "levelq send level-up 42 PLAYER --xp 150 --reason 'Won a match'"),
        (history, "levelq history 42 --limit 10"),
        (catalog, "levelq catalog"),
    ],
    "Check": [
        (status, "levelq status --json"),
        (doctor, "levelq doctor"),
        (check, "levelq check"),
        (verify, "levelq verify --history sends.jsonl --at-rest"),
    ],
    "Repair and maintain": [
        (sync, "levelq sync 42 PLAYER --source license"),
        (rebuild, "levelq rebuild PLAYER"),
        (prune, "levelq prune --older-than 30d --dry-run"),
        (shards, "levelq shards PLAYER 8"),
    ],
    "Cancel and erase": [
        (cancel, "levelq cancel 42 PLAYER --id 0196f0a0-0000-7000-8000-000000000000"),
        (purge, "levelq purge PLAYER --dry-run"),
        (forget, "levelq forget 42 --dry-run"),
    ],
}
for _panel, _commands in _PANELS.items():
    for _command, _example in _commands:
        _register(app, _panel, _command, _example)
app.add_typer(db, name="db", rich_help_panel="Repair and maintain")
_register(db, None, upgrade, "levelq db upgrade")
_register(db, None, db_check, "levelq db check")
app.add_typer(namespace, name="namespace", rich_help_panel="Repair and maintain")
_register(namespace, None, show, "levelq namespace show")
_register(namespace, None, rebind, "levelq namespace rebind --dry-run")

_show_traceback = False


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose, to report a bug.")] = False,
) -> None:
    global _show_traceback  # noqa: PLW0603 - read after the command has failed, outside typer
    _show_traceback = traceback
    if version:
        from importlib import metadata

        typer.echo(f"levelq {metadata.version('levelq')}")
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
        for line in _lines(error):
            print_line(verdict("levelq: ", "bold red", line), on=err)
        return 2


def _lines(error: Exception) -> list[str]:
    """What is wrong and what to do next: one line, of a ConfigurationError one for each reason."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return [one_line(error.format_message()) + hint]

    from sqlalchemy.exc import SQLAlchemyError

    from levelq_core.database.sqlstate import in_words
    from levelq_core.errors import ConfigurationError, LevelqError

    if isinstance(error, ConfigurationError):
        return [one_line(reason) for reason in error.reasons]
    if isinstance(error, LevelqError):
        return [one_line(str(error))]
    if isinstance(error, SQLAlchemyError):
        return [f"LEVELQ_DATABASE_URL: {one_line(in_words(error))}"]
    if isinstance(error, OSError):
        return [one_line(f"{error.filename}: {error.strerror}" if error.filename else str(error))]
    return [f"{type(error).__name__}: {one_line(str(error))}; this is a bug: `levelq --traceback ...` shows where"]
