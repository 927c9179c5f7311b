"""The library's source files, parsed, for the tests beside this one."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "levelq": ROOT / "levelq",
    "levelq_core": ROOT / "core" / "levelq_core",
    "levelq_producer": ROOT / "producer" / "levelq_producer",
    "levelq_worker": ROOT / "worker" / "levelq_worker",
}


class Source(NamedTuple):
    """One module of the library."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def where(self) -> str:
        """Its path from the repository's root."""
        return str(self.path.relative_to(ROOT))

    def calls(self) -> Iterator[tuple[int, str]]:
        """Every call as (line, the last name called)."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node.lineno, getattr(node.func, "attr", getattr(node.func, "id", ""))

    def imports(self) -> Iterator[tuple[int, str]]:
        """Every absolute module name it imports anywhere, with `from x import y` as both x and x.y."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                    base = f"{above}.{base}".rstrip(".")
                yield node.lineno, base
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            found.append(Source(name, path, text, ast.parse(text, str(path))))
    return tuple(found)


def reached_from(*roots: str) -> list[Source]:
    """These modules and all of the library's that they import, directly or not, at once or later."""
    by_name = {source.name: source for source in sources()}
    waiting, seen = list(roots), set()
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in seen:
            seen.add(name)
            waiting += [imported for _, imported in by_name[name].imports()]
    assert set(roots) <= seen
    return [by_name[name] for name in sorted(seen)]
