"""The token file: what is in it, what is refused, and when it is read again."""

from pathlib import Path

import pytest

from levelq.console.access.login import Login
from levelq.console.access.login_file import MOST_BYTES, LoginFile, append, digest_of, new_login
from levelq_core import ConfigurationError
from tests.support.hostile import HTML, TEXTS, assert_safe

DIGEST = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logins"


def refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as raised:
        LoginFile(path).entries()
    assert str(raised.value).startswith(f"LEVELQ_CONSOLE_LOGINS: {path}: ")
    return str(raised.value).removeprefix(f"LEVELQ_CONSOLE_LOGINS: {path}: ")


def test_new_logins_are_found_by_their_tokens(path: Path) -> None:
    path.write_text("# the night shift\n\n  # and others")  # no newline at the end
    tokens = {}
    for name, role in (("anna", "operator"), ("ben", "reader"), ("anna", "reader")):
        tokens[name, role], line = new_login(name, role)
        append(path, line)
    file = LoginFile(path)
    for login, token in tokens.items():
        found = file.find(token)
        assert found is not None and found.login == login
        assert token not in path.read_text()
        assert file.find(token[:-1]) is None and file.find(token + "x") is None
    assert file.find("") is None and file.find("\udcff") is None
    assert len(set(tokens.values())) == 3 and min(map(len, tokens.values())) >= 43  # 256 bits


def test_file_that_is_made_is_of_this_account_alone(path: Path) -> None:
    append(path, new_login("anna", "reader")[1])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("anna operator", "line 2: expected `name role sha256:HEX`, got 2 words"),
        (f"anna the operator sha256:{DIGEST}", "line 2: expected `name role sha256:HEX`, got 4 words"),
        (f"anna admin sha256:{DIGEST}", "line 2: role: expected operator or reader, got 'admin'"),
        (f"anna operator {DIGEST}", "line 2: expected sha256: and 64 hexadecimal digits after the role"),
        ("anna operator secret-token", "line 2: expected sha256: and 64 hexadecimal digits after the role"),
        (f"anna operator sha256:{DIGEST[1:]}", "line 2: expected sha256: and 64 hexadecimal digits after the role"),
        (f"{'a' * 101} reader sha256:{DIGEST}", "line 2: name: expected at most 100 printable characters"),
        (f"\u202eanna reader sha256:{DIGEST}", "line 2: name: expected at most 100 printable characters"),
        (f"a reader sha256:{DIGEST}\nb reader sha256:{DIGEST}", "line 3: expected a token of its own, got one that "),
    ],
)
def test_bad_line_is_named(path: Path, line: str, message: str) -> None:
    refused = refusal(path, f"# logins\n{line}\n")
    assert refused.startswith(message)
    assert "secret-token" not in refused


@pytest.mark.parametrize("text", [*TEXTS.values(), *HTML.values()])
def test_refusal_of_a_hostile_line_is_safe_to_print(path: Path, text: str) -> None:
    assert_safe(refusal(path, f"anna {text.split(maxsplit=1)[0]} sha256:{DIGEST}\n"))


def test_file_that_others_could_write_is_refused(path: Path) -> None:
    path.touch()
    path.chmod(0o606)
    assert "every account of this host may write it" in refusal(path, "")


def test_file_of_another_kind_is_refused(path: Path) -> None:
    assert refusal(path, b"\xff\xfe") == "expected UTF-8"
    assert refusal(path, "#" * (MOST_BYTES + 1)) == "expected at most 1,000,000 bytes"
    path.unlink()
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        LoginFile(path).entries()


def test_change_is_read_and_a_bad_one_lets_nobody_in(path: Path) -> None:
    token, line = new_login("anna", "operator")
    append(path, line)
    file = LoginFile(path)
    entry = file.find(token)
    assert entry is not None and file.holds(entry)
    path.write_text(line.replace("operator", "reader"))
    assert not file.holds(entry)
    found = file.find(token)
    assert found is not None and found.login == Login("anna", "reader")
    path.write_text(line + "\nmistake\n")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="line 2: "):
            file.find(token)
    path.write_text(line)
    assert file.holds(entry)
    path.unlink()
    with pytest.raises(ConfigurationError):
        file.holds(entry)


@pytest.mark.parametrize("name", ["", "two words", " anna", "#anna", "a" * 101, "tab\there", "\u200b", *TEXTS.values()])
def test_name_that_the_file_cannot_hold_is_refused(name: str) -> None:
    try:
        _, line = new_login(name, "reader")
    except ConfigurationError as error:
        assert str(error).startswith("--new-login: ")
        assert_safe(str(error))
    else:
        assert line.split(" ")[0] == name and name.isprintable()


def test_digest_is_sha256_of_the_token() -> None:
    assert digest_of("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
