"""The code blocks of the Markdown pages, with the output that a page shows for them."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).parents[3]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "tests").rglob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs" / "examples").rglob("*.py"))]
RUN = {"python", "sh", "bash", "console", "sql", "toml", "ini"}  # what page_runner.py runs or reads
NOT_CODE = {"", "text", "{toctree}", "{eval-rst}"}  # output, drawings; Sphinx's own

_BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SAVED = re.compile(r"\b[Ss]ave\s+(?:\w+\s+)?as\s+`([\w./-]+)`")  # above a block
_NAMED = re.compile(r"# ([\w./-]+\.py)\n")  # its first line
_VARIES = {
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}": "<id>",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "<time>",
    r"\b\d+(?:\.\d+)? (?:ms|s|min)\b": "<duration>",
    r"─+": "─",  # as wide as the table
    r"[ \t]+": " ",
}


@dataclass
class Block:
    """One fenced block. `output`: the block of output below it, if there is one.

    `save_as`: the file name that the text above or its first line gives it. `refusal`: why it is not run, as
    ` ```sh no-run: needs Docker` says.
    """

    page: Path
    line: int
    language: str
    refusal: str
    code: str
    save_as: str = ""
    output: str | None = None

    @property
    def runs(self) -> bool:
        """Whether to run it here; what quotes a file of docs/examples is run as part of that."""
        quotes = any(f"\n{indent(self.code, ' ' * depth)}" in file for file in EXAMPLES for depth in (0, 4, 8, 12))
        return self.language in RUN and not self.refusal and not quotes

    @property
    def where(self) -> str:
        """Where to look."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page from top to bottom, also those inside HTML comments, which readers do not see."""
    text, found, end = page.read_text(encoding="utf-8"), list[Block](), 0
    for match in _BLOCK.finditer(text):
        indent, info, code = match.groups()
        before, end = text[end : match.start()], match.end()
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        language, _, rest = info.strip().partition(" ")
        if not language and found and not before.strip():
            found[-1].output = code
            continue
        kind = "console" if not language and code.startswith("$ ") else language
        saved = _NAMED.match(code) or _SAVED.search(before.strip().rpartition("\n\n")[2])
        line = text.count("\n", 0, match.start()) + 1
        refusal = rest.removeprefix("no-run:").strip() if rest.startswith("no-run:") else ""
        found.append(Block(page, line, kind, refusal, code, saved[1] if saved else ""))
    return found


def differs(shown: str, printed: str) -> str:
    """What a run printed, if it is not what a page shows; ids, times and spaces count as equal, `...` as any text."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n" for line in _lines(shown)
    )
    same = re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed)))
    return "" if same else printed or "nothing"


def _lines(text: str) -> list[str]:
    for pattern, name in _VARIES.items():
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.splitlines() if line.strip()]
