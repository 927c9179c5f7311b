"""The trials run what the runbook's first table names, for each of its rows."""

import re

from benchmarks.trials.problems import PROBLEMS
from tests.architecture.sources import ROOT

_ROW = re.compile(r"^\| ([^|]+) \| [^|]+ \| [^|]*?`levelq ([^`]+)`[^|]* \| \[Levelq", re.MULTILINE)


def test_each_row_of_the_runbook_has_a_trial_of_its_command() -> None:
    page = (ROOT / "docs" / "how-to" / "runbook.md").read_text()
    assert [(row, *command.split()) for row, command in _ROW.findall(page)] == [
        (problem.row, *(word for word in problem.command if word != "--once")) for problem in PROBLEMS
    ]
