"""`levelq forget`: erase what is personal of one user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from levelq_core.erasing import Erased
from levelq_core.lane_editor import LaneEditor
from levelq_core.waking import Waker

from ..forgetting import Forgetting, Known
from .cancelling import DryRun, Yes, waiting_lines
from .connecting import database_of, load, redis_of
from .screen import confirm, count, out


def forget(
    user: Annotated[int, typer.Argument(metavar="USER", min=1, max=2**63 - 1, help="The user's id.")],
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Forget a user: erase what levelq keeps of them, in Redis and in the database.

    What waits is cancelled, the rows of the three tables are deleted, and the ledger keeps only ids and numbers.
    Delete the user from your own table first, or a command sent later starts a new learner. Workers may run.
    Running it again finds what came meanwhile.
    """
    settings = load()
    with database_of(settings) as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        waker = Waker(redis, rq, settings.keys)
        forgetting = Forgetting(engine, LaneEditor(redis, settings), waker, settings, user)
        known = forgetting.look()
        if not known.total:
            out.print(f"nothing is known of user {user}", markup=False, soft_wrap=True)
            return
        for line in _lines(known):
            out.print(f"  {line}", markup=False, soft_wrap=True)
        if dry_run:
            return
        if not yes:
            confirm(f"Forget user {user}? This cannot be undone.")
        cancelled, erased = forgetting.run()
    told = f"user {user} is forgotten: {count(cancelled.cancelled, 'command')} cancelled, {_rows(erased)}"
    out.print(told, markup=False, soft_wrap=True)
    left = f"outcomes that senders asked for leave Redis within {settings.reply_seconds} s by themselves"
    out.print(left, markup=False, soft_wrap=True)


def _lines(known: Known) -> Iterator[str]:
    rows = known.rows
    for line in waiting_lines(known.waiting):
        yield f"to be cancelled: {line}"
    deleted = (("progress row", rows.progress), ("license row", rows.licenses), ("progression", rows.progressions))
    yield f"to be deleted: {', '.join(count(number, what) for what, number in deleted)}"
    cleared = (("ledger row", rows.ledger), ("quarantine row", rows.quarantine), ("audit line", rows.audit))
    kept = "ids of commands and numbers stay"
    yield f"to be cleared, {kept}: {', '.join(count(number, what) for what, number in cleared)}"
    yield f"to be cleared of their author: {count(rows.authored, 'row')} of other users"


def _rows(erased: Erased) -> str:
    deleted = erased.progress + erased.licenses + erased.progressions
    return f"{count(deleted, 'row')} deleted, {count(erased.total - deleted, 'row')} cleared"
