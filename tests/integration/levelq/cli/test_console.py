"""`levelq console` before it serves: when it refuses to start, and how logins are made."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from levelq.console.access.login_file import LoginFile
from tests.support.fixtures.command_line import Levelq

URL = {"LEVELQ_CONSOLE_URL": "https://console.example"}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def port() -> int:
    """A port at which none does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def logins(tmp_path: Path) -> Path:
    return tmp_path / "logins"


def test_port_in_use_is_refused(levelq_here: Levelq, taken: int) -> None:
    error = levelq_here.refused("console", "--port", taken)
    assert error == f"levelq: --port {taken}: cannot listen at 127.0.0.1 (--host): Address already in use\n"


@pytest.mark.parametrize("host", ["256.1.1.1", "", " ", "\x1b[31m"])
def test_host_that_is_none_is_refused(levelq_here: Levelq, host: str, port: int) -> None:
    assert "--host" in levelq_here.refused("console", "--host", host, "--port", port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_address_that_others_reach_needs_a_login_and_a_url(
    levelq_here: Levelq, host: str, port: int, logins: Path
) -> None:
    def refused(**environment: str) -> str:
        return levelq_here.refused("console", "--host", host, "--port", port, **environment)

    for more in ({}, URL):
        error = refused(**more)
        assert "is not loopback, expected logins then: LEVELQ_CONSOLE_LOGINS (a token file; " in error
        assert "or LEVELQ_CONSOLE_LOGIN_HEADER with LEVELQ_CONSOLE_PROXIES" in error
    logins.touch()
    for login in (
        {"LEVELQ_CONSOLE_LOGINS": str(logins)},
        {"LEVELQ_CONSOLE_LOGIN_HEADER": "X-User", "LEVELQ_CONSOLE_PROXIES": "10.0.0.1"},
    ):
        assert refused(**login).startswith("levelq: LEVELQ_CONSOLE_URL: not set, expected where browsers reach it")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (URL, "LEVELQ_CONSOLE_URL: https://console.example is not loopback, expected logins then: "),
        ({"LEVELQ_CONSOLE_LOGIN_HEADER": "X-User"}, "LEVELQ_CONSOLE_PROXIES: not set, expected the addresses of the "),
        ({"LEVELQ_CONSOLE_PROXIES": "10.0.0.1"}, "LEVELQ_CONSOLE_LOGIN_HEADER: not set, expected the header in which"),
        ({"LEVELQ_CONSOLE_OPERATORS": "anna"}, "LEVELQ_CONSOLE_LOGIN_HEADER: not set, expected the header in which"),
        ({"LEVELQ_CONSOLE_LOGINS": "/absent/logins"}, "LEVELQ_CONSOLE_LOGINS: /absent/logins: No such file"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    levelq_here: Levelq, port: int, environment: dict[str, str], message: str
) -> None:
    assert levelq_here.refused("console", "--port", port, **environment).startswith(f"levelq: {message}")


def test_bad_token_file_is_refused_with_its_line(levelq_here: Levelq, port: int, logins: Path) -> None:
    logins.write_text("# logins\nanna boss sha256:00\n")
    error = levelq_here.refused("console", "--port", port, LEVELQ_CONSOLE_LOGINS=str(logins))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # those that wait for a stop are let through again
    assert error.endswith("logins: line 2: role: expected operator or reader, got 'boss'\n")
    assert logins.read_text() == "# logins\nanna boss sha256:00\n"
    assert "line 2" in levelq_here.refused("console", "--new-login", "ben", LEVELQ_CONSOLE_LOGINS=str(logins))


def test_new_login_is_added_to_the_file_and_its_token_is_all_of_stdout(levelq_here: Levelq, logins: Path) -> None:
    options = {"anna": ["--role", "operator"], "ben": ["--role", "reader"], "eve": []}
    for name, role in options.items():
        code, out, err = levelq_here("console", "--new-login", name, *role, LEVELQ_CONSOLE_LOGINS=str(logins))
        entry = LoginFile(logins).find(out.strip())
        assert code == 0 and entry is not None and out.strip() not in err
        assert entry.login == (name, "operator" if name == "anna" else "reader")
    assert logins.stat().st_mode & 0o777 == 0o600


def test_without_a_file_the_line_for_it_is_printed(levelq_here: Levelq, logins: Path) -> None:
    code, out, err = levelq_here("console", "--new-login", "anna", "--role", "operator")
    line = err.splitlines()[1]
    logins.write_text(line)
    entry = LoginFile(logins).find(out.strip())
    assert code == 0 and entry is not None and entry.login == ("anna", "operator")


def test_wrong_use_of_the_options_is_refused(levelq_here: Levelq) -> None:
    assert "--role: expected --new-login" in levelq_here.refused("console", "--role", "operator")
    assert "--new-login: expected a name without spaces" in levelq_here.refused("console", "--new-login", "a b")
    assert "--role" in levelq_here.refused("console", "--new-login", "anna", "--role", "boss")
    assert "--port" in levelq_here.refused("console", "--port", "0")
