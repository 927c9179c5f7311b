"""`levelq forget`: erase what is personal of one user."""

from __future__ import annotations

from collections.abc import Iterator

from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations.erasing import Erased
from levelq_worker.withdrawal.forgetting import Forgetting, UserData

from .cancelling import DryRun, Yes, waiting_lines
from .connecting import database_of, load, redis_of
from .screen import confirm, count, out
from .sending import CheckedUser


def forget(
    user: CheckedUser,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Forget a user: erase what levelq keeps of them, in Redis and in the database.

    Cancels the user's waiting commands, deletes the rows of the three tables, and leaves only command ids and numbers
    in the ledger. Delete the user from your own table first, or a command sent later starts a new learner. Workers may
    keep running; run it again to erase what arrived during the first run.
    """
    settings = load()
    with database_of(settings) as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        waker = Waker(redis, rq, settings.keys)
        forgetting = Forgetting(engine, LaneEditor(redis, settings), waker, settings, user)
        known = forgetting.look()
        if not known.total:
            out.print(f"user {user}: nothing to erase", markup=False, soft_wrap=True)
            return
        for line in _lines(known):
            out.print(f"  {line}", markup=False, soft_wrap=True)
        if dry_run:
            return
        if not yes:
            confirm(f"Forget user {user}? This cannot be undone.")
        cancelled, erased = forgetting.run()
    done = f"user {user} is forgotten: {count(cancelled.cancelled, 'command')} cancelled, {_rows(erased)}"
    out.print(done, markup=False, soft_wrap=True)
    out.print(f"replies in Redis expire within {settings.reply_seconds} s", soft_wrap=True)


def _lines(known: UserData) -> Iterator[str]:
    rows = known.rows
    for line in waiting_lines(known.waiting):
        yield f"cancel  {line}"
    deleted = (("progress row", rows.progress), ("license row", rows.licenses), ("progression", rows.progressions))
    yield f"delete  {', '.join(count(number, what) for what, number in deleted)}"
    cleared = (("ledger row", rows.ledger), ("quarantine row", rows.quarantine), ("audit line", rows.audit))
    yield f"clear   {', '.join(count(number, what) for what, number in cleared)}; command ids and numbers stay"
    yield f"clear   the author in {count(rows.authored, 'row')} of other users"


def _rows(erased: Erased) -> str:
    deleted = erased.progress + erased.licenses + erased.progressions
    return f"{count(deleted, 'row')} deleted, {count(erased.total - deleted, 'row')} cleared"
