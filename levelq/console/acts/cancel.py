"""Cancel what waits of one user in one specialization, or one command of it: `levelq cancel`."""

from __future__ import annotations

import re
from uuid import UUID

from levelq_core.errors import InvalidArgument
from levelq_core.operations.audit import user_target
from levelq_core.operations.queries import outcome_of
from levelq_core.operations.readings.explanation import MOST_FIRST, explain
from levelq_core.operations.wording import count, one_line
from levelq_core.untrusted_text import quoted
from levelq_worker.withdrawal.canceller import Canceller
from levelq_worker.withdrawal.waiting_lanes import Scope, Waiting, left_lines

from .act import Asked, Plan, act
from .connected import Connected, connected
from .scopes import lane_of


def _plan(asked: Asked) -> Plan:
    scope, (user_id, name) = _scope(asked), lane_of(asked)
    with connected(asked) as at:
        waiting = Canceller(at.engine, at.lanes, at.waker, asked.console.settings).look(scope)
        decided = _decided(at, scope) if not waiting.total else None
    which = f"user {user_id} in {name}"
    command = f"levelq cancel {user_id} {name}"
    if scope.command_id is not None:
        title, button = "Cancel one command", "Cancel this command"
        what = f"Command {scope.command_id} of {which} is cancelled: it is rejected for good, and never applied."
        command += f" --id {scope.command_id}"
        rest = "The user's other commands keep their order."
    else:
        title, button = f"Cancel what waits of {which}", f"Cancel {count(waiting.total, 'command')}"
        what = f"Every command of {which} that waits is cancelled: it is rejected for good, and never applied."
        rest = "What a worker holds now may still be applied. A command that is sent after this page was shown stays."
        if (pushed := _in_both(waiting, name)) is not None:
            button = f"Cancel what waits: {pushed}"
    return Plan(
        title=title,
        happens=(
            what,
            'Its sender gets that answer, with the error "cancelled", and so does the same id if it is sent again.',
            rest,
            *left_lines(waiting.newer, waiting.unreadable),
        ),
        table=_table(asked, scope, user_id, name) if scope.command_id else _counts(waiting, name),
        command=command,
        button=button,
        back=f"/users/{user_id}",
        dangerous=True,
        impossible=None if waiting.total else decided,
        kept=(("shown", f"{waiting.newest_ms}-{waiting.last_row}"),),
    )


def _scope(asked: Asked) -> Scope:
    user_id, name = lane_of(asked)
    given = asked.values.get("id", "")
    try:
        command_id = UUID(given) if given else None
    except ValueError:
        message = f"id: expected a command's id (a UUID), got {quoted(given)}"
        raise InvalidArgument(message, field="id", value=given) from None
    return Scope((name,), user_id, command_id, *_shown(asked))


def _shown(asked: Asked) -> tuple[int, int] | tuple[None, None]:
    """The bounds of what the confirmation counted; none before it was shown. Raises InvalidArgument."""
    given = asked.values.get("shown")
    if given is None:
        return None, None
    found = re.fullmatch(r"(\d{1,18})-(\d{1,18})", given, re.ASCII)
    if found is None:
        message = f"shown: expected what the confirmation showed, got {quoted(given)}"
        raise InvalidArgument(message, field="shown", value=given)
    return int(found[1]), int(found[2])


def _decided(at: Connected, scope: Scope) -> str:
    """Why there is nothing to cancel."""
    if scope.command_id is None:
        return "Nothing waits there."
    with at.engine.connect() as connection:
        outcome = outcome_of(connection, scope.command_id)
    if outcome is None:
        return f"Command {scope.command_id} does not wait there, and the ledger does not know it either."
    return one_line(f"It was decided: {outcome.status}, {outcome.error or outcome.message}")


def _counts(waiting: Waiting, name: str) -> tuple[tuple[str, ...], ...]:
    return (
        ("Where", "Waiting"),
        ("in the lane", count(waiting.in_lanes.get(name, 0), "command")),
        ("in the outbox", count(waiting.in_outbox.get(name, 0), "row")),
    )


def _in_both(waiting: Waiting, name: str) -> str | None:
    """What waits in words if a command may count twice: in the outbox, and in the lane to which it was pushed."""
    lane, rows = waiting.in_lanes.get(name, 0), waiting.in_outbox.get(name, 0)
    return f"{count(lane, 'command')}, {count(rows, 'outbox row')}" if lane and rows else None


def _table(asked: Asked, scope: Scope, user_id: int, name: str) -> tuple[tuple[str, ...], ...]:
    """What the command holds, if it is one of the first of its lane or of the outbox."""
    console = asked.console
    found = explain(console.settings, user_id, name, limit=1, first=MOST_FIRST, engine=console.engine)
    held = [event.summary for event in found.events if event.what == "waiting" and event.command_id == scope.command_id]
    return (("Command",), *((summary,) for summary in held)) if held else ()


def _perform(asked: Asked) -> str:
    scope, (user_id, name) = _scope(asked), lane_of(asked)
    if scope.newest_ms is None:
        raise InvalidArgument("shown: expected what the confirmation showed, got nothing", field="shown", value=None)
    target = user_target(user_id, name)
    with connected(asked) as at:
        canceller = Canceller(at.engine, at.lanes, at.waker, asked.console.settings)
        done = canceller.run(scope, ("cancel", target), actor=asked.actor)
    return "; ".join([f"{target}: {done.in_words()}", *left_lines(done.newer, done.unreadable)]) + "."


route = act("cancel", _plan, _perform)
