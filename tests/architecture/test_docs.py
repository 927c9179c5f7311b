"""The pages' statements about the code, compared with the code."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from levelq_core import Settings
from tests.architecture.sources import ROOT, sources

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
WIDTH = 120
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
PATH = (ROOT / "README.md").read_text().partition("## The path of a command\n")[2].partition("\n## ")[0]
STEP = re.compile(r"\b(\w+)\(\)")  # in the picture
LINK = re.compile(r"\[`([\w.]+)`\]\(([^)]+)\)")  # below it


def test_settings_page_has_every_setting_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    rows = re.findall(r"^\| `LEVELQ_(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_is_wrapped(page: Path) -> None:
    """Tables, code and a line that is one long link may be wider."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "![", "    "))]
    assert [line for line in lines if len(line) > WIDTH and " " in line.strip()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_links_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    absent = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert absent == []


class Names:
    """What product code defines, as `function`, `Class` and `Class.method`, and what it calls, by the last name."""

    def __init__(self) -> None:
        self.by_file = {source.where: set(_defined(source.tree)) for source in sources()}
        everything = set().union(*self.by_file.values())
        for source in sources():  # `from levelq_core... import write as reply` defines reply, too
            self.by_file[source.where] |= {alias for alias, name in _aliases(source.tree) if name in everything}
        self.defined = {_last(name) for names in self.by_file.values() for name in names}
        self.called = {name for source in sources() for _, name in source.calls()}

    def unknown(self, text: str) -> set[str]:
        """The names of a text that product code does not define, in the file linked, or never calls."""
        links = set(LINK.findall(text))
        absent = {name for name, file in links if name not in self.by_file.get(file, ())}
        steps = set(STEP.findall(text))
        uncalled = {name for name in steps | {name for name, _ in links} if _last(name) not in self.called}
        return absent | uncalled | steps - self.defined


@cache
def names() -> Names:
    return Names()


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, FUNCTION | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{part.name}" for part in node.body if isinstance(part, FUNCTION))


def _aliases(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("levelq"):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _calls_of(file: str, function: str) -> list[str]:
    """The last names of the calls in a function of the product, from top to bottom."""
    tree = next(source.tree for source in sources() if source.where == file)
    found = next(node for node in ast.walk(tree) if isinstance(node, FUNCTION) and node.name == function)
    calls = sorted((n for n in ast.walk(found) if isinstance(n, ast.Call)), key=lambda n: (n.lineno, n.col_offset))
    return [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]


def test_path_in_readme_names_what_product_code_defines_and_calls() -> None:
    assert len(STEP.findall(PATH)) > 15 and len(LINK.findall(PATH)) > 10
    assert names().unknown(PATH) == set()


@pytest.mark.parametrize(
    ("invented", "name"),
    [
        ("  transport()  invented", "transport"),
        ("[`Claims.transport`](worker/levelq_worker/draining/claims.py)", "Claims.transport"),
        ("[`Claims.claim`](worker/levelq_worker/draining/drain.py)", "Claims.claim"),  # another file
        ("  validate_consistency()  only applications call it", "validate_consistency"),
    ],
)
def test_path_with_a_name_that_is_not_there_is_refused(invented: str, name: str) -> None:
    assert names().unknown(invented) == {name}


@pytest.mark.parametrize(
    ("file", "function", "first", "last", "column"),
    [
        ("producer/levelq_producer/producer.py", "_push", "group_by_lane", "settle", 21),
        ("worker/levelq_worker/draining/drain.py", "_drain_batch", "claim", "ack", 21),
        ("core/levelq_core/coupler/couple.py", "couple", "lock", "write_rows", 23),
    ],
)
def test_path_in_readme_has_the_steps_in_the_order_of_the_code(
    file: str, function: str, first: str, last: str, column: int
) -> None:
    steps = re.findall(rf"^.{{20}} {{{column - 20}}}(\w+)\(\)", PATH, re.MULTILINE)
    steps = steps[steps.index(first) : steps.index(last) + 1]
    calls = iter(_calls_of(file, function))
    assert [step for step in steps if step not in calls] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_shows_no_path_of_one_machine(page: Path) -> None:
    """Pasted output names where a run had its folders."""
    assert re.findall(r"/(?:tmp|home|root|work)/\S*", page.read_text()) == []
