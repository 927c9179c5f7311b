"""Erase what levelq keeps of a user: `levelq forget`."""

from __future__ import annotations

from levelq_core.errors import InvalidArgument
from levelq_core.untrusted_text import quoted
from levelq_worker.withdrawal.forgetting import Forgetting

from .act import Asked, Field, Plan, act
from .connected import Connected, connected
from .scopes import require_user


def _plan(asked: Asked) -> Plan:
    user_id = require_user(asked)
    with connected(asked) as at:
        known = _forgetting(asked, at, user_id).look()
    lines = [(verb, what.strip()) for verb, _, what in (line.partition(" ") for line in known.in_words())]
    return Plan(
        title=f"Forget user {user_id}",
        happens=(
            f"What levelq keeps of user {user_id} is erased, in Redis and in the database. It cannot be brought back.",
            "The ledger keeps the ids of the commands and the numbers, without the user's id, author and reason.",
            "Delete the user from your own tables first, or a command that is sent later starts a new learner.",
        ),
        table=(("What happens", "To what"), *lines),
        fields=(Field("confirm", f"To confirm, type {user_id}", help="The id of the user."),),
        command=f"levelq forget {user_id}",
        button=f"Forget user {user_id}",
        back=f"/users/{user_id}",
        dangerous=True,
        impossible=None if known.total else f"levelq keeps nothing of user {user_id}.",
    )


def _forgetting(asked: Asked, at: Connected, user_id: int) -> Forgetting:
    return Forgetting(at.engine, at.lanes, at.waker, asked.console.settings, user_id)


def _perform(asked: Asked) -> str:
    user_id, typed = require_user(asked), asked.values.get("confirm", "")
    if typed.strip() != str(user_id):
        message = f"confirm: expected {user_id}, got {quoted(typed)}; nothing was erased"
        raise InvalidArgument(message, field="confirm", value=typed)
    with connected(asked) as at:
        forgetting = _forgetting(asked, at, user_id)
        cancelled, erased = forgetting.run(actor=asked.actor)
    seconds = asked.console.settings.reply_seconds
    return f"{forgetting.done_in_words(cancelled, erased)}; replies in Redis expire within {seconds} s."


route = act("forget", _plan, _perform)
