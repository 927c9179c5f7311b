"""`levelq console`: the web console."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from typer import Option

from .screen import err, out, print_line, refused


class Role(StrEnum):
    """What a login may do."""

    READER = "reader"
    OPERATOR = "operator"


def console(
    port: Annotated[int, Option(min=1, max=65_535, help="Where to serve it.")] = 8420,
    host: Annotated[str, Option(help="The address to listen on.")] = "127.0.0.1",
    read_only: Annotated[bool, Option("--read-only", help="Nobody may act, whatever their role.")] = False,
    new_login: Annotated[
        str | None, Option("--new-login", metavar="NAME", help="Make a token for this login, and end.")
    ] = None,
    role: Annotated[Role | None, Option(help="Of the new login; default: reader.")] = None,
) -> None:
    """Serve pages that show and steer a running system, until stopped.

    On loopback, without logins set, each browser of this machine may act, by the name of this process's account. On
    any other address it starts only with logins: LEVELQ_CONSOLE_LOGINS or LEVELQ_CONSOLE_LOGIN_HEADER.

    With --new-login it prints a new token, once, and adds its hash to the file of LEVELQ_CONSOLE_LOGINS, or prints the
    line for that file if it is not set. Needs levelq\\[console].
    """
    if new_login is not None:
        _add_login(new_login, role or Role.READER)
        return
    if role is not None:
        raise refused("--role: expected --new-login with it")
    from levelq.console.console import Console
    from levelq.console.serving import listen, serve

    from .connections import load

    settings = load()
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    with listen(host, port) as listening:
        serve(Console(settings, read_only=read_only), listening, host, lambda: print_line(url, on=err))


def _add_login(name: str, role: Role) -> None:
    """The token alone goes to stdout, so that a script can read it."""
    from levelq.console.access.login_file import LoginFile, append, new_login

    from .connections import load

    path = load().console_logins
    token, line = new_login(name, role)
    if path is None:
        print_line("Add this line to a file, and name the file in LEVELQ_CONSOLE_LOGINS:", on=err)
        print_line(line, on=err)
    else:
        if path.exists():
            LoginFile(path).entries()
        append(path, line)
        print_line(f"{path} has a line for {name}, {role}. The token is shown only now:", on=err)
    print_line(token, on=out)
