"""Send rejected commands once more: `levelq rejected retry`."""

from __future__ import annotations

from .act import Asked, Plan, act
from .chosen import REJECTED
from .retrying import perform_retry, plan_retry

_SENDS = "Each is a new command of the same content, whose id follows from the old one: a second retry changes nothing."


def _plan(asked: Asked) -> Plan:
    return plan_retry(REJECTED, asked, _SENDS)


def _perform(asked: Asked) -> str:
    return perform_retry(REJECTED, asked)


route = act("retry-rejected", _plan, _perform)
