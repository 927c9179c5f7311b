"""The pages quote docs/examples, which the tests run: what a page shows is what works."""

import re
from pathlib import Path
from textwrap import indent

import pytest

from tests.architecture.sources import ROOT

WEB_APP = ROOT / "docs" / "how-to" / "use-in-a-web-app.md"
# A paragraph that links to an example, and the code below it.
QUOTE = re.compile(r"\]\(([\w./-]*examples/[\w./-]+\.py)\)[^\n]*\n\n((?:```python\n.*?```\n\n?)+)", re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def is_part(code: str, file: Path) -> bool:
    """Whether a file contains some lines of code, whatever their indentation there."""
    return any(f"\n{indent(code, ' ' * depth)}" in file.read_text() for depth in (0, 4, 8, 12))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_code_below_a_link_to_an_example_is_part_of_it(page: Path) -> None:
    for link, blocks in QUOTE.findall(page.read_text()):
        for code in CODE.findall(blocks):
            assert is_part(code, page.parent / link), code


def test_how_to_for_a_web_application_shows_nothing_else() -> None:
    text = WEB_APP.read_text()
    quoted = [code for _, blocks in QUOTE.findall(text) for code in CODE.findall(blocks)]
    assert quoted == CODE.findall(text) and len(quoted) > 10


def test_code_that_differs_from_its_example_is_found() -> None:
    file = ROOT / "docs" / "examples" / "script.py"
    assert is_part("commands = list(read(sys.stdin))\n", file)
    assert not is_part("commands = list(read(sys.stdout))\n", file)
