"""Delete quarantined entries for good: `levelq quarantine discard`."""

from __future__ import annotations

from .act import Asked, Plan, act
from .chosen import QUARANTINED
from .discarding import perform_discard, plan_discard

_MEANS = ("Their bytes are deleted for good. The audit keeps their lengths and hashes.",)


def _plan(asked: Asked) -> Plan:
    return plan_discard(QUARANTINED, asked, _MEANS, for_good=True)


def _perform(asked: Asked) -> str:
    return perform_discard(QUARANTINED, asked)


route = act("discard-quarantined", _plan, _perform)
