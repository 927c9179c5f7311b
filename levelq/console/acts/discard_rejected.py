"""Settle rejected commands without a retry: `levelq rejected discard`."""

from __future__ import annotations

from .act import Asked, Plan, act
from .chosen import REJECTED
from .discarding import perform_discard, plan_discard

_MEANS = (
    "They leave this list and the number of open rejections. What they would have changed is not applied.",
    "Their rows of the ledger stay: a second send of the same id still has no effect; they can still be retried by id.",
)


def _plan(asked: Asked) -> Plan:
    return plan_discard(REJECTED, asked, _MEANS, for_good=False)


def _perform(asked: Asked) -> str:
    return perform_discard(REJECTED, asked)


route = act("discard-rejected", _plan, _perform)
