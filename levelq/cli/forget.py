"""`levelq forget`: erase what is personal of one user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .cancel import editing, waiting_lines
from .options import DryRun, User, Yes
from .screen import confirm, count, print_line

if TYPE_CHECKING:
    from levelq_worker.withdrawal.forgetting import UserData


def forget(user: User, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Erase what levelq keeps of a user, in Redis and in the database.

    Cancels the user's waiting commands, deletes the rows of the three tables, and leaves only command ids and numbers
    in the ledger. Delete the user from your own table first, or a command sent later starts a new learner. Workers may
    keep running; run it again to erase what arrived during the first run.
    """
    from levelq_worker.withdrawal.forgetting import Forgetting

    from .connections import load

    settings = load()
    with editing(settings, patient=True) as parts:
        forgetting = Forgetting(*parts, user)
        known = forgetting.look()
        if not known.total:
            print_line(f"user {user}: nothing to erase")
            return
        for line in _lines(known):
            print_line(f"  {line}")
        if dry_run:
            return
        confirm(f"Forget user {user}? This cannot be undone.", yes=yes)
        cancelled, erased = forgetting.run()
    deleted = erased.progress + erased.licenses + erased.progressions
    rows = f"{count(deleted, 'row')} deleted, {count(erased.total - deleted, 'row')} cleared"
    print_line(f"user {user} is forgotten: {count(cancelled.cancelled, 'command')} cancelled, {rows}")
    print_line(f"replies in Redis expire within {settings.reply_seconds} s")


def _lines(known: UserData) -> Iterator[str]:
    rows = known.rows
    for line in waiting_lines(known.waiting):
        yield f"cancel  {line}"
    if known.pauses:
        yield f"resume  {count(known.pauses, 'paused lane')}"
    deleted = (("progress row", rows.progress), ("license row", rows.licenses), ("progression", rows.progressions))
    yield f"delete  {', '.join(count(number, what) for what, number in deleted)}"
    cleared = (("ledger row", rows.ledger), ("quarantine row", rows.quarantine), ("audit line", rows.audit))
    yield f"clear   {', '.join(count(number, what) for what, number in cleared)}; command ids and numbers stay"
    yield f"clear   the author in {count(rows.authored, 'row')} of other users"
