"""End a pause: `levelq resume`."""

from __future__ import annotations

from levelq_core.operations.wording import count

from .act import Asked, Plan, act
from .pausing import back, command, pauses_shown, pausing, scope_of, waiting, what, with_unwritten


def _plan(asked: Asked) -> Plan:
    scope = scope_of(asked)
    with pausing(asked) as operation:
        found = operation.look(scope)
    commands, _ = waiting(asked, scope)
    happens = ["Workers take its commands again at once, in order; nothing is sent twice."]
    if scope.user_id is None:
        happens += [f"{count(commands, 'command')} wait there now.", "Pauses of single users stay."]
    return Plan(
        title=f"Resume {what(scope)}",
        happens=tuple(happens) if found else (),
        table=pauses_shown(found),
        command=command("resume", scope),
        button=f"Resume {what(scope)}",
        back=back(scope),
        impossible=None if found else f"{what(scope)} is not paused.",
    )


def _perform(asked: Asked) -> str:
    scope = scope_of(asked)
    with pausing(asked) as operation:
        change = operation.resume(scope)
        done = "resumed" if change.before else "it was not paused any more"
        return with_unwritten(f"{what(scope)}: {done}.", operation.unwritten)


route = act("resume", _plan, _perform)
