"""Send quarantined entries to their lanes that this version can read: `levelq quarantine retry`."""

from __future__ import annotations

from .act import Asked, Plan, act
from .chosen import QUARANTINED
from .retrying import perform_retry, plan_retry

_SENDS = "Each is a command after all, under its own id; it leaves the quarantine when it is sent."


def _plan(asked: Asked) -> Plan:
    return plan_retry(QUARANTINED, asked, _SENDS)


def _perform(asked: Asked) -> str:
    return perform_retry(QUARANTINED, asked)


route = act("retry-quarantined", _plan, _perform)
