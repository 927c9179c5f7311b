"""An application that installs the wheel beside its own `core`, `producer` and `worker`, as type checkers see it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))
Lines = set[tuple[str, int]]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application's folder, outside the repository, and in it an environment with the wheel."""
    folder = tmp_path_factory.mktemp("types") / "application"
    shutil.copytree(Path(__file__).parent / "project", folder)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
        "-w", folder, ROOT)  # fmt: skip
    venv.create(folder / ".venv", symlinks=True)
    site = folder / ".venv" / SITE.relative_to(sys.prefix)
    with ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    # The dependencies, without the editable levelq: that is a .pth file there, which this one does not lead to.
    (site / "dependencies.pth").write_text(f"{SITE}\n")
    return folder


def run(*command: object, cwd: Path = ROOT, code: int = 0) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def python(application: Path) -> Path:
    return application / ".venv" / "bin" / "python"


def misused(application: Path) -> Lines:
    """The lines that are marked."""
    lines = (application / "misuse.py").read_text().splitlines()
    return {("misuse.py", number) for number, line in enumerate(lines, 1) if "# error" in line}


def test_wheel_hides_no_package_of_the_application(application: Path) -> None:
    core, of_levelq = run(python(application), "main.py", cwd=application).splitlines()
    assert core == "the application's own core"
    assert Path(of_levelq).is_relative_to(application)


def test_mypy_finds_each_misuse_and_nothing_else(application: Path) -> None:
    # The cache of the repository's own check spares a second analysis of the dependencies.
    options = ["--strict", "--config-file=", "--cache-dir", ROOT / ".mypy_cache" / "application"]
    mypy = (sys.executable, "-m", "mypy", *options, "--python-executable", python(application), ".")
    found = re.findall(r"^(\S+):(\d+): error", run(*mypy, cwd=application, code=1), re.MULTILINE)
    assert {(file, int(line)) for file, line in found} == misused(application)


def test_pyright_finds_each_misuse_and_nothing_else_in_the_examples_either(application: Path) -> None:
    for example in (ROOT / "docs" / "examples").glob("*.py"):
        shutil.copy(example, application)
    # With --outputjson it looks for no newer version of itself.
    pyright = (sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python(application), ".")
    report = json.loads(run(*pyright, cwd=application, code=1))
    errors = [found for found in report["generalDiagnostics"] if found["severity"] == "error"]
    assert report["summary"]["filesAnalyzed"] > len(list(application.glob("*.py")))
    lines = {(Path(found["file"]).name, found["range"]["start"]["line"] + 1) for found in errors}
    assert lines == misused(application)
