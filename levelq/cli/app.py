"""All commands by name, and the code that turns an error into one line and an exit code."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from .screen import err, one_line, print_line, verdict

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


def _register(group: typer.Typer, panel: str | None, example: str) -> None:
    """Add the command that the example calls: a function in the module of that name, or of its group's name.

    Its docstring is the help text; the paragraphs are wrapped to the terminal's width.
    """
    words = example.split()
    name = words[1 if group is app else 2]
    module = import_module(f".{words[1]}", __package__)
    command = getattr(module, f"{name}_", None) or getattr(module, name)  # `list_` is the command `list`
    help_text = "\n\n".join(" ".join(paragraph.split()) for paragraph in command.__doc__.split("\n\n"))
    group.command(name, help=help_text, epilog=f"Example:  [bold]{example}[/bold]", rich_help_panel=panel)(command)


_PANELS = {
    "Servers and workers": (
        "levelq demo --users 1000 --commands 50000",
        "levelq up --data levelq-data",
        "levelq worker --processes 2",
        "levelq loadtest --scenario contention --seconds 30 --out report.html",
    ),
    "Commands and their outcomes": (
        "levelq send level-up 42 PLAYER --xp 150 --reason 'Won a match'",
        "levelq explain 42 PLAYER",
        "levelq history 42 --limit 10",
        "levelq events --follow --user 42",
        "levelq catalog",
    ),
    "Check": (
        "levelq status --json",
        "levelq workers",
        "levelq top",
        "levelq doctor",
        "levelq check",
        "levelq verify --history sends.jsonl --at-rest",
        "levelq audit --since 1d",
        "levelq metrics --port 9465",
        "levelq console --port 8420",
    ),
    "Steer": (
        "levelq pause PLAYER --for 1h --reason 'migration of the ledger'",
        "levelq resume PLAYER",
        "levelq drain PLAYER --wait --timeout 10m",
    ),
    "Repair and maintain": (
        "levelq sync 42 PLAYER --source license",
        "levelq adopt --dry-run",
        "levelq rebuild PLAYER",
        "levelq prune --older-than 30d --dry-run",
        "levelq shards PLAYER 8",
    ),
    "Cancel and erase": (
        "levelq cancel 42 PLAYER --id 0196f0a0-0000-7000-8000-000000000000",
        "levelq purge PLAYER --dry-run",
        "levelq forget 42 --dry-run",
    ),
}
_GROUPS = {
    ("rejected", "Commands and their outcomes", "List, retry or discard commands that were rejected."): (
        "levelq rejected list --since 1h",
        "levelq rejected show 0196f0a0-0000-7000-8000-000000000000",
        "levelq rejected retry --error database_error --since 1h --dry-run",
        "levelq rejected discard --user 42",
    ),
    ("quarantine", "Commands and their outcomes", "List, retry or discard entries that were no commands."): (
        "levelq quarantine list --since 1h",
        "levelq quarantine show 17",
        "levelq quarantine retry --dry-run",
        "levelq quarantine discard 17",
    ),
    ("db", "Repair and maintain", "Create levelq's tables, check the database, or let it forbid drift."): (
        "levelq db upgrade",
        "levelq db check",
        "levelq db enforce --report",
    ),
    ("namespace", "Repair and maintain", "Show or change the database that the Redis keys are bound to."): (
        "levelq namespace show",
        "levelq namespace rebind --dry-run",
    ),
}
for _panel, _examples in _PANELS.items():
    for _example in _examples:
        _register(app, _panel, _example)
for (_name, _panel, _help), _examples in _GROUPS.items():
    _group = typer.Typer(name=_name, help=_help, rich_markup_mode="rich")
    app.add_typer(_group, rich_help_panel=_panel)
    for _example in _examples:
        _register(_group, None, _example)

_show_traceback = False


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error arose, to report a bug.")
    ] = False,
) -> None:
    global _show_traceback  # noqa: PLW0603 - read after the command has failed, outside typer
    _show_traceback = show_traceback
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
        lines = traceback.format_exc().splitlines() if _show_traceback else _lines(error)
        for line in lines:
            print_line(line if _show_traceback else verdict("levelq: ", "bold red", line), on=err)
        return 2


def _lines(error: Exception) -> list[str]:
    """What is wrong and what to do next: one line, of a ConfigurationError one for each reason."""
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return [one_line(error.format_message()) + hint]

    from levelq_core.errors import ConfigurationError, LevelqError

    if isinstance(error, ConfigurationError):
        return [one_line(reason) for reason in error.reasons]
    if isinstance(error, LevelqError):
        return [one_line(str(error))]
    from sqlalchemy.exc import SQLAlchemyError

    from levelq_core.database.sqlstate import in_words

    if isinstance(error, SQLAlchemyError):
        return [f"LEVELQ_DATABASE_URL: {one_line(in_words(error))}"]
    if isinstance(error, OSError):
        return [one_line(f"{error.filename}: {error.strerror}" if error.filename else str(error))]
    return [f"{type(error).__name__}: {one_line(str(error))}; this is a bug: `levelq --traceback ...` shows where"]
