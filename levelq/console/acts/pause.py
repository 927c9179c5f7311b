"""Pause a specialization, one user's lanes, or everything: `levelq pause`."""

from __future__ import annotations

import re
from datetime import timedelta

from levelq_core.errors import InvalidArgument
from levelq_core.operations.wording import count, duration, when_utc
from levelq_core.untrusted_text import quoted

from .act import Asked, Field, Plan, act
from .pausing import back, command, held, pauses_shown, pausing, scope_of, waiting, what, with_unwritten

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_CHOICES = (
    ("", "until it is resumed"), ("15m", "15 minutes"), ("1h", "1 hour"), ("4h", "4 hours"), ("1d", "1 day"),
    ("7d", "7 days"),
)  # fmt: skip


def _plan(asked: Asked) -> Plan:
    scope, values = scope_of(asked), asked.values
    lasting = _lasting(values.get("for", ""))
    with pausing(asked) as operation:
        found = operation.look(scope)
    commands, claimed = waiting(asked, scope)
    happens = [f"Workers stop taking commands of {what(scope)}. They finish what they hold; that is applied."]
    happens.append("Producers go on: commands are accepted and wait, in order. Nothing is lost.")
    if scope.user_id is None:
        happens.append(f"{count(commands, 'command')} wait there now; workers hold {count(claimed, 'lane')}.")
    else:
        happens.append("Other users are not held back.")
    happens.append("Direct calls (level_up_atomic) are not held back.")
    if found:
        happens.append("It is paused already: this replaces the end and the reason, not the beginning.")
    length = next((value for value, _ in _CHOICES if value and lasting == _lasting(value)), "")
    return Plan(
        title=f"Pause {what(scope)}",
        happens=tuple(happens),
        table=pauses_shown(found),
        fields=(
            Field(
                "for",
                "How long",
                length,
                _CHOICES,
                "Resume ends it at any time.",
            ),
            Field("reason", "Why", values.get("reason", ""), help="Everyone who looks at it sees this, and your name."),
        ),
        command=command("pause", scope, **{"for": length or "1h", "reason": values.get("reason", "") or "..."}),
        button=f"Pause {what(scope)}",
        back=back(scope),
    )


def _perform(asked: Asked) -> str:
    scope = scope_of(asked)
    lasting = _lasting(asked.values.get("for", ""))
    with pausing(asked) as operation:
        change = operation.pause(scope, lasting, asked.values.get("reason", "").strip())
        in_hand = operation.in_hand(scope)
        ends = {pause.until for pause in change.now}
        until = next(iter(ends)) if len(ends) == 1 else None
        how = "until it is resumed" if until is None else f"until {when_utc(until)}"
        if until is None and lasting is not None:
            how = f"for {duration(lasting.total_seconds())}"
        return with_unwritten(f"{what(scope)}: paused {how}; {held(in_hand)}.", operation.unwritten)


def _lasting(given: str) -> timedelta | None:
    """30m, 1h or 2d; None if nothing is given. Raises InvalidArgument."""
    if not given:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", given.strip().lower())
    if match is None:
        raise InvalidArgument(f"for: expected 30m, 1h or 2d, got {quoted(given)}", field="for", value=given)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


route = act("pause", _plan, _perform)
