"""The front door: what each package exports, and what importing it costs."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import levelq
import levelq_core
import levelq_producer
import levelq_worker
from levelq_core import errors

# Section 3 of the design.
PROMISED = {
    levelq: {
        *("LevelUp", "SetLevel", "SyncLevels", "Outcome", "Totals", "Catalog", "Settings"),
        *("ProgressLicenseCoupler", "level_up_atomic", "apply_commands"),
        *("Producer", "AsyncProducer", "Outbox", "LaneWorker", "drain"),
    },
    levelq_core: {
        *("LevelUp", "SetLevel", "SyncLevels", "Outcome", "Totals", "Catalog", "Settings"),
        *("ProgressLicenseCoupler", "level_up_atomic", "apply_commands"),
    },
    levelq_producer: {"Producer", "AsyncProducer", "Outbox"},
    levelq_worker: {"LaneWorker", "drain"},
}
ROOT = Path(__file__).parents[2]
DATABASE = ("sqlalchemy", "psycopg", "alembic")
COMMAND_LINE = ("typer", "rich", "click")
PACKAGES = pytest.mark.parametrize("package", PROMISED, ids=lambda package: package.__name__)


def own_names(package: ModuleType) -> set[str]:
    """The public names that a package's own code binds, apart from its modules."""
    names = set()
    for name, value in vars(package).items():
        ours = str(getattr(value, "__module__", "")).startswith("levelq_") or value is levelq_core.Command
        if not name.startswith("_") and not isinstance(value, ModuleType) and ours:
            names.add(name)
    return names


@pytest.mark.parametrize("package", [levelq_core, levelq_producer, levelq_worker], ids=lambda package: package.__name__)
def test_all_is_what_is_public(package: ModuleType) -> None:
    here = own_names(package)
    assert here <= set(package.__all__)
    for lazy in set(package.__all__) - here:
        assert getattr(package, lazy).__module__.startswith(f"{package.__name__}.")
    assert sorted(package.__all__, key=str.casefold) == sorted(set(package.__all__), key=str.casefold)


@PACKAGES
def test_the_promised_names_are_there(package: ModuleType) -> None:
    assert PROMISED[package] <= set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_front_door_has_every_public_name_of_the_packages_below() -> None:
    below = {name for package in (levelq_core, levelq_producer, levelq_worker) for name in package.__all__}
    assert set(levelq.__all__) == below
    for name in levelq.__all__:
        homes = [package for package in (levelq_core, levelq_producer, levelq_worker) if name in package.__all__]
        assert all(getattr(package, name) is getattr(levelq, name) for package in homes)
    assert below <= set(dir(levelq))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_docs_import_public_names_from_the_front_door(page: Path) -> None:
    for package, names in re.findall(r"^from (levelq\w*) import ([\w, ]+)", page.read_text(), re.MULTILINE):
        assert package == "levelq" and set(names.replace(" ", "").split(",")) <= set(levelq.__all__), (package, names)


def test_front_door_imports_nothing_until_a_name_is_used() -> None:
    loaded = loaded_after("import levelq")
    assert not loaded & {*DATABASE, *COMMAND_LINE, "rq", "redis", "pydantic", "levelq_core", "levelq_producer"}


def test_every_error_is_exported() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert tree <= set(levelq_core.__all__)


@PACKAGES
def test_a_name_that_is_not_there_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


@PACKAGES
def test_everything_can_be_imported_with_a_star(package: ModuleType) -> None:
    names: dict[str, object] = {}
    exec(f"from {package.__name__} import *", names)
    assert set(package.__all__) <= set(names)


@PACKAGES
def test_a_fresh_interpreter_can_import_with_a_star_too(package: ModuleType) -> None:
    loaded_after(f"from {package.__name__} import *")


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    return {name.partition(".")[0] for name in modules_after(code)}


def modules_after(code: str) -> set[str]:
    """All modules that a fresh interpreter has loaded after running some code."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_producer_loads_only_its_own_rooms_beside_redis_and_pydantic() -> None:
    loaded = modules_after("from levelq import Producer")
    others = {name for name in loaded if not name.startswith("levelq")}
    assert others <= modules_after(
        "import hmac, secrets, tomllib, redis\n"
        "from pydantic import BaseModel, Field\n"
        "class M(BaseModel): x: int = Field(0)"
    )
    rooms = {name.partition(".")[2].partition(".")[0] for name in loaded if name.startswith("levelq_core.")}
    assert not rooms & {"coupler", "operations"}
    assert not loaded & {f"levelq_producer.{name}" for name in ("async_producer", "event_loops", "outbox")}


@pytest.mark.parametrize(
    "code",
    [
        "import levelq_core",
        "import levelq_producer",
        "from levelq import Producer, LevelUp; Producer.from_url('redis://localhost:1/0').close()",
        "from levelq_producer import Producer; Producer.from_url('redis://localhost:1/0').close()",
        "from levelq_producer import Producer\n"
        "Producer.from_url('redis://localhost:1/0', database_url='postgresql://localhost/none').close()",
        "import asyncio\nfrom levelq_producer import AsyncProducer\n"
        "async def main():\n    await AsyncProducer.from_url('redis://localhost:1/0').close()\nasyncio.run(main())",
    ],
    ids=["core", "producer", "the front door", "a producer", "a producer with a ledger", "an async producer"],
)
def test_enqueuing_needs_neither_database_libraries_nor_the_command_line_nor_rq(code: str) -> None:
    assert not loaded_after(code) & {*DATABASE, *COMMAND_LINE, "rq", "levelq_worker"}


def test_the_coupler_is_loaded_when_asked_for() -> None:
    assert "sqlalchemy" in loaded_after("from levelq_core import apply_commands")


def test_without_the_database_libraries_the_coupler_names_the_extra_to_install() -> None:
    code = """
import sys
for name in ("sqlalchemy", "psycopg"):
    sys.modules[name] = None
import levelq, levelq.testing, levelq_core
names = ("apply_commands", "ProgressLicenseCoupler", "level_up_atomic")
asked = [(levelq_core, name) for name in names] + [(levelq, name) for name in (*names, "LaneWorker")]
asked += [(levelq.testing, name) for name in ("InlineProducer", "ServerUrls")]
for package, name in asked:
    try:
        getattr(package, name)
    except ImportError as error:
        assert str(error) == f"{name} needs the database libraries: pip install 'levelq[worker]'", error
    else:
        raise SystemExit("no error")
"""
    loaded_after(code)


def test_without_the_database_libraries_a_producer_says_how_to_read_the_ledger() -> None:
    code = """
import sys
for name in ("sqlalchemy", "psycopg"):
    sys.modules[name] = None
from uuid import UUID
from levelq import ConfigurationError, Producer
with Producer.from_url("redis://localhost:1/0", database_url="postgresql://localhost/none") as producer:
    try:
        producer.handle(UUID(int=1)).result(0.1)
    except ConfigurationError as error:
        assert "pip install 'levelq[worker]', or unset it" in str(error), error
    else:
        raise SystemExit("no error")
"""
    loaded_after(code)


def test_outbox_is_loaded_without_the_database_libraries() -> None:
    """Django on psycopg2 needs neither."""
    assert not loaded_after("from levelq import Outbox; Outbox") & {*DATABASE, "rq", "levelq_worker"}


def test_core_knows_neither_producer_nor_worker() -> None:
    loaded = loaded_after(
        "import levelq_core, levelq_core.coupler.direct, levelq_core.operations.queries, levelq_core.lanes.client"
    )
    assert not loaded & {"levelq_producer", "levelq_worker"}


@pytest.mark.parametrize("name", ["levelq", "levelq_core", "levelq_producer", "levelq_worker"])
def test_each_package_is_typed(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert (importlib.resources.files(name) / "py.typed").is_file()
