"""`levelq console`: the web console."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from .screen import err, print_line


def console(
    port: Annotated[int, Option(min=1, max=65_535, help="Where to serve it.")] = 8420,
    host: Annotated[str, Option(help="The address to listen on.")] = "127.0.0.1",
    read_only: Annotated[bool, Option("--read-only", help="Nobody may act, whatever their role.")] = False,
) -> None:
    """Serve pages that show and steer a running system, until stopped."""
    import uvicorn

    from levelq.console.application import application
    from levelq.console.console import Console

    from .connections import load

    made = application(Console(load(), read_only=read_only))
    print_line(f"http://{host}:{port}/", on=err)
    uvicorn.run(made, host=host, port=port, log_level="warning", server_header=False, access_log=False)
