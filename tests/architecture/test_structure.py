"""Where things may be: settings, transactions, serializers, sizes and documentation."""

import ast
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, ROOT, Source, reached_from, sources

SOURCES = pytest.mark.parametrize("source", sources(), ids=lambda source: source.where)
MOST_MODULE_LINES = 300  # a subject ends a file, long before this
MOST_FUNCTION_LINES = 60
TRANSACTIONS = {
    "levelq_worker.draining.transaction",
    "levelq_core.coupler.direct_transaction",
    "levelq_core.coupler.apply",
}
WRITE_PATH = (
    "levelq_worker.draining.drain",
    "levelq_worker.rq_adapter.worker",
    "levelq_core.coupler.direct",
    "levelq_producer",
)


@pytest.mark.parametrize("folder", ["core", "producer", "worker"])
def test_the_folders_are_no_packages(folder: str) -> None:
    """An installed package called `core` would shadow an application's own."""
    assert not (ROOT / folder / "__init__.py").exists()
    assert [p.name for p in (ROOT / folder).iterdir() if p.suffix == ".py"] == []


def looked_up(source: Source) -> list[int]:
    """Lines that look a variable up. Handing the environment as a whole on to a child process is no reading."""
    lines = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Subscript | ast.Attribute) and _is_environment(node.value):
            lines += [] if isinstance(node, ast.Attribute) and node.attr in ("items", "copy") else [node.lineno]
        elif isinstance(node, ast.Compare) and any(map(_is_environment, node.comparators)):
            lines.append(node.lineno)
        elif getattr(node, "attr", getattr(node, "id", "")) in ("getenv", "getenvb", "BaseSettings"):
            lines.append(node.lineno)  # type: ignore[attr-defined]
    return lines


def _is_environment(node: ast.expr) -> bool:
    return getattr(node, "attr", getattr(node, "id", "")) in ("environ", "environb")


@SOURCES
def test_only_the_settings_read_the_environment(source: Source) -> None:
    if source.name != "levelq_core.settings":
        assert looked_up(source) == []
        assert "pydantic_settings" not in {name for _, name in source.imports()}


def test_the_write_path_is_found() -> None:
    names = {source.name for source in reached_from(*WRITE_PATH)}
    assert {
        "levelq_core.coupler.couple",
        "levelq_core.coupler.bisect",
        "levelq_core.lanes.client",
        "levelq_worker.draining.batch",
    } <= names
    assert names >= TRANSACTIONS


@pytest.mark.parametrize("source", reached_from(*WRITE_PATH), ids=lambda source: source.where)
def test_only_three_modules_of_the_write_path_open_or_end_transactions(source: Source) -> None:
    if source.name in TRANSACTIONS:
        return
    for line, name in source.calls():
        assert name not in {"begin", "begin_nested", "commit", "rollback", "transaction"}, f"{source.where}:{line}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            sql = " ".join(node.value.split())
            assert not re.match(r"(BEGIN|COMMIT|START TRANSACTION|ROLLBACK)( (?!TO )|;|$)", sql), source.where


@SOURCES
def test_nothing_is_pickled(source: Source) -> None:
    modules = {name.partition(".")[0] for _, name in source.imports()}
    assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    assert "DefaultSerializer" not in source.text
    assert "PickleSerializer" not in source.text


@SOURCES
def test_every_rq_queue_is_given_the_json_serializer(source: Source) -> None:
    """Its default is pickle."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Queue":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("serializer") == "JSONSerializer", f"{source.where}:{node.lineno}"


@SOURCES
def test_no_module_is_long(source: Source) -> None:
    assert len(source.text.splitlines()) <= MOST_MODULE_LINES


@SOURCES
def test_no_function_is_long(source: Source) -> None:
    long = [
        f"{source.where}:{node.lineno} {node.name}: {lines} lines"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MOST_FUNCTION_LINES
    ]
    assert long == []


def undocumented(tree: ast.AST, inside: str = "") -> list[str]:
    """Public classes, functions and methods without a docstring. What functions hold inside is their own."""
    missing = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{inside}{node.name}"
            if not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(name)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                missing += undocumented(node, f"{name}.")
        elif isinstance(node, ast.If | ast.Try):
            missing += undocumented(node, inside)
    return missing


@SOURCES
def test_everything_public_is_documented(source: Source) -> None:
    assert ast.get_docstring(source.tree), "the module has no docstring"
    assert undocumented(source.tree) == []


@pytest.mark.parametrize("source", [s for s in sources() if s.name.startswith("levelq.cli.")], ids=lambda s: s.where)
def test_commands_print_through_the_screen_alone(source: Source) -> None:
    """There text of others is made safe; `echo` is for scripts and export lines, which hold none."""
    may_echo = source.name in {f"levelq.cli.{name}" for name in ("screen", "app", "db", "up")}
    used = {name for _, name in source.calls()}
    assert not used & {"dumps", "model_dump_json", "secho", *([] if may_echo else ["echo"])}
    names = {
        node.func.id for node in ast.walk(source.tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in names


def rooms_of_the_page() -> dict[str, set[str]]:
    """What docs/explanation/architecture.md has under the heading of each folder: modules, and folders with a slash."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    _, *parts = re.split(r"^#+ (.*)\n", page, flags=re.MULTILINE)
    sections = zip(parts[::2], parts[1::2], strict=True)
    rows = {heading: re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for heading, text in sections}
    return {heading: set(re.findall(r"`([\w/]+)`", " ".join(cells))) for heading, cells in rows.items() if cells}


def rooms_of_the_tree() -> dict[str, set[str]]:
    """The packages' folders down to the rooms: the modules of each, and the folders that are no rooms of their own."""
    rooms = {}
    for package in PACKAGES.values():
        inner = [path for path in package.iterdir() if (path / "__init__.py").exists()]
        for room in [package, *(inner if package.name in ("levelq_core", "levelq_worker") else [])]:
            modules = {path.stem for path in room.glob("[!_]*.py")}
            folders = {f"{path.name}/" for path in room.glob("[!_]*/") if any(path.glob("*.*"))}
            rooms[str(room.relative_to(ROOT))] = modules | folders
    above = {name: {f"{Path(other).name}/" for other in rooms if str(Path(other).parent) == name} for name in rooms}
    return {name: inside - above[name] for name, inside in rooms.items()}


def test_the_architecture_page_names_every_module_in_its_room() -> None:
    assert rooms_of_the_page() == rooms_of_the_tree()


def project_files() -> Iterator[Path]:
    """What git has or would take, by .gitignore: also in a source archive, which is no checkout."""
    ignored = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines())]
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in ignored)]
        yield from (Path(folder) / name for name in files if not any(fnmatch(name, pattern) for pattern in ignored))


# In pieces, or this file would be the one that names them.
HOSTS = [
    *("py" + "pi.org", "python" + "hosted.org", "npm" + "js.", "registry." + "npm", "crates" + ".io", "ana" + "conda."),
    *("ruby" + "gems.", "repo1." + "maven", "proxy." + "golang", "arti" + "factory", "jfrog" + ".io", "dev" + "pi."),
]


def test_no_file_names_a_package_registry() -> None:
    pattern = re.compile("|".join(map(re.escape, HOSTS)), re.IGNORECASE)
    found = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_every_lua_script_is_shipped_beside_the_code() -> None:
    names = {path.name for path in (ROOT / "core" / "levelq_core" / "lanes" / "lua").iterdir() if path.is_file()}
    expected = {f"{name}.lua" for name in ("prelude", "push", "claim", "ack", "renew", "yield", "sweep", "status")}
    assert expected <= names
    assert {name.rpartition(".")[2] for name in names} == {"lua"}
