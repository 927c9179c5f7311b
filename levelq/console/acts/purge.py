"""Cancel everything that waits in a specialization, for good: `levelq purge`."""

from __future__ import annotations

from levelq_core.errors import InvalidArgument
from levelq_core.operations.backlog import Backlog, backlog
from levelq_core.operations.wording import count
from levelq_core.untrusted_text import quoted
from levelq_worker.withdrawal.canceller import Canceller
from levelq_worker.withdrawal.waiting_lanes import Scope

from .act import Asked, Field, Plan, act
from .connected import connected
from .scopes import require_specialization


def _plan(asked: Asked) -> Plan:
    name = require_specialization(asked)
    with connected(asked) as at:
        left = backlog(at.lanes, at.engine, [name])  # counts of the servers: it does not read every lane, as a run does
    return Plan(
        title=f"Purge {name}",
        happens=(
            f"Every command of {name} that waits is cancelled: it is rejected for good, and never applied.",
            "Users lose the level-ups that these commands carry. Sending the same ids again gets the same answer.",
            "Entries that are no commands are quarantined. What workers hold now may still be applied.",
            "A command that is sent until it is done may be cancelled, too, or left: stop the producers first.",
            "It takes some seconds for each 100,000 commands; keep this page open until then.",
        ),
        table=(("What waits", "Number"), *_rows(left)),
        fields=(Field("name", f"To confirm, type {name}", help="The name of the specialization."),),
        command=f"levelq purge {name}",
        button=f"Cancel {count(left.commands or left.rows, 'command')}",
        back=f"/partitions/{name}",
        dangerous=True,
        impossible=None if any(left) else f"Nothing waits in {name}.",
    )


def _rows(left: Backlog) -> tuple[tuple[str, ...], ...]:
    return (
        ("commands in lanes", f"{left.commands:,}"),
        ("lanes that workers hold now", f"{left.claimed:,}"),
        ("rows of the outbox; those that were pushed are among the commands, too", f"{left.rows:,}"),
    )


def _perform(asked: Asked) -> str:
    name = require_specialization(asked)
    typed = asked.values.get("name", "")
    if typed.strip() != name:
        message = f"name: expected {name}, got {quoted(typed)}; nothing was cancelled"
        raise InvalidArgument(message, field="name", value=typed)
    with connected(asked) as at:
        canceller = Canceller(at.engine, at.lanes, at.waker, asked.console.settings)
        done = canceller.run(Scope((name,)), ("purge", name), actor=asked.actor)
    parts = [f"{name}: {count(done.cancelled, 'command')} cancelled"]
    parts += [f"{done.decided:,} were decided before"] if done.decided else []
    parts += [f"{done.quarantined:,} malformed quarantined"] if done.quarantined else []
    parts += [f"{done.newer:,} left, which only a newer version of levelq can read"] if done.newer else []
    parts += [f"{count(len(done.unreadable), 'key')} left, which are no lanes"] if done.unreadable else []
    return ", ".join(parts) + "."


route = act("purge", _plan, _perform)
