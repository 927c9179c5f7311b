"""The folder of the embedded servers' sockets: the same at each start, and never one that another account made."""

import tempfile
from pathlib import Path

import pytest

from levelq.embedded import MOST_SOCKET_BYTES, lasting_sockets
from levelq_core import ConfigurationError


@pytest.fixture
def base(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(server_folder))
    return server_folder


def test_sockets_of_one_data_folder_have_one_path_and_those_of_a_killed_run_are_gone(base: Path) -> None:
    data = base / "data"
    made = lasting_sockets(data)
    (made / "valkey.sock").touch()
    (base / "other").symlink_to(data)
    assert lasting_sockets(base / "other") == made and made.parent == base.resolve()
    assert not list(made.iterdir()) and made.stat().st_mode & 0o777 == 0o700
    assert lasting_sockets(base / "data2") != made


def test_path_that_is_taken_is_refused_with_the_way_out(base: Path) -> None:
    made = lasting_sockets(base / "data")
    made.rmdir()
    made.symlink_to(base)
    with pytest.raises(ConfigurationError, match=f"^{made}: expected to make .*; remove it, or set TMPDIR to another"):
        lasting_sockets(base / "data")
    assert list(base.iterdir()) == [made]


def test_path_that_is_too_long_for_a_socket_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = base / ("x" * MOST_SOCKET_BYTES)
    deep.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(ConfigurationError, match=r"^TMPDIR: expected a path of at most 60 bytes .*, got /"):
        lasting_sockets(base / "data")
