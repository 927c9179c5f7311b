"""Every help text: what it shows, and that it is quick because of what it does not import."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from levelq.cli.app import app, run
from tests.support.fixtures.command_line import python


def _commands(group: Any, words: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} ")
        else:
            yield words + name


COMMANDS = tuple(_commands(get_command(app)))
HEAVY = {"levelq_core", "levelq_producer", "redis", "rq", "sqlalchemy", "psycopg", "alembic", "levelq.embedded"}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"Example:  levelq {command}" in out


def test_without_a_command_the_help_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert all(f"│ {command.partition(' ')[0]} " in shown for command in COMMANDS)


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"levelq \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["", "status", "send", "worker", "loadtest", "rejected retry"])
def test_help_imports_nothing_that_only_a_running_command_needs(command: str) -> None:
    program = (
        "import sys; from levelq.cli import app; sys.stdout = sys.stderr;"
        f" code = app.run({[*command.split(), '--help']}); sys.stdout = sys.__stdout__;"
        " print('\\n'.join(sys.modules)); sys.exit(code)"
    )
    code, out, err = python("-c", program)
    assert code == 0 and "Usage: levelq" in err, err
    assert not HEAVY & set(out.split())
