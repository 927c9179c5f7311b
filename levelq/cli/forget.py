"""`levelq forget`: erase what is personal of one user."""

from __future__ import annotations

from .cancel import editing
from .options import DryRun, User, Yes
from .screen import confirm, print_line


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
        for line in known.in_words():
            print_line(f"  {line}")
        if dry_run:
            return
        confirm(f"Forget user {user}? This cannot be undone.", yes=yes)
        cancelled, erased = forgetting.run()
    print_line(forgetting.done_in_words(cancelled, erased))
    print_line(f"replies in Redis expire within {settings.reply_seconds} s")
