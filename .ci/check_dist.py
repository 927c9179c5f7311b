"""What is in dist/: links that a package index can follow, and a source archive whose tests run outside git.

python .ci/check_dist.py PYTHON: runs tests of the unpacked source archive, on its own code, with this Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
URLS = {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
TESTS = ("tests/architecture/test_structure.py", "tests/unit/core/domain/test_catalog.py")


def check_metadata(wheel: Path) -> None:
    """Every link of the description names its host; every project URL is there."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = BytesParser(policy=default).parsebytes(archive.read(name))
    links = re.findall(r"\]\(([^)\s]+)", str(metadata.get_payload()))
    relative = [link for link in links if not link.startswith("https://")]
    if relative or not links:
        sys.exit(f"{wheel.name}: expected absolute links in its description, got {relative}")
    missing = URLS - {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    if missing:
        sys.exit(f"{wheel.name}: expected project URLs, lacks {sorted(missing)}")


def check_files(names: set[str]) -> None:
    """In a checkout: the archive has what git has."""
    if not (ROOT / ".git").exists():
        return
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    printed = subprocess.run(listed, check=True, capture_output=True, text=True).stdout  # noqa: S603
    known = {name for name in printed.split("\0") if (ROOT / name).is_file()}
    if names != known:
        sys.exit(f"the source archive: lacks {sorted(known - names)}, has {sorted(names - known)} too")


def check_sources(archive: Path, python: str) -> None:
    """The archive is complete, and tests pass in it."""
    with TemporaryDirectory(prefix="levelq-sdist-") as folder, tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
        (root,) = Path(folder).iterdir()
        check_files({str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {"PKG-INFO"})
        paths = os.pathsep.join(str(root / name) for name in (".", "core", "producer", "worker"))
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": paths}, check=True)  # noqa: S603


if __name__ == "__main__":
    (wheel,), (archive,) = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    check_metadata(wheel)
    check_sources(archive, str(ROOT / sys.argv[1]))
