"""Retry rejected commands, or discard them.

A retry is a new command of the same content; its id follows from the old one's. By these ids the next run finds the
retries of a run that broke off, in the lanes or in the ledger, and notes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, text

from levelq_core.database.schema import LEDGER
from levelq_core.domain.commands import Command
from levelq_core.errors import InvalidCommand
from levelq_core.operations.readings.rejected import REJECTED, RejectedCommand

from . import lane_order
from .lane_order import LaneOrder
from .plan import Planned, Verdict
from .prospects import Prospect, prospects
from .redriving import FORCE, Redriving, is_news, lock

Retry = Planned[RejectedCommand]


class Retrying(Redriving[RejectedCommand]):
    """Retries rejected commands, or settles them without a retry.

    Their ledger rows stay in any case: by them a second send of the same id is recognized.
    """

    name, group, rows = "rejected command", "rejected", REJECTED

    @classmethod
    def _settle(cls, connection: Connection, ids: Sequence[int], how: Literal["retried", "discarded"]) -> set[int]:
        lock(connection, LEDGER, ids)
        return set(connection.execute(_SETTLE, {"ids": ids, "how": how}).scalars())

    def _sent(self, became: Sequence[Retry]) -> dict[str, object]:
        retried = {str(one.source.command_id): str(one.command_id) for one in became if is_news(one)}
        left = sum(one.verdict == "left" for one in became)
        return {"retried": len(retried), "left": left, "commands": retried}

    @classmethod
    def _discarded(cls, gone: Sequence[RejectedCommand]) -> dict[str, object]:
        return {"commands": [str(one.command_id) for one in gone]}

    def _examine(self, connection: Connection, found: Sequence[RejectedCommand]) -> list[Retry]:
        lanes = {one.lane for one in found if one.user_id}
        orders = lane_order.read(connection, self._lanes, lanes, {one.retry_id: one.id for one in found})
        verdicts: dict[int, tuple[Verdict, str]] = {}
        commands: dict[int, Command] = {}
        for one in found:
            verdict = _known(one, orders.get(one.lane, LaneOrder())) or self._overtaking(one, orders[one.lane])
            try:
                commands |= {} if verdict else {one.id: one.command()}
            except InvalidCommand as error:
                verdict = "refused", str(error)
            if verdict:
                verdicts[one.id] = verdict
        expected = prospects(connection, self._settings, list(commands.values()))
        for (ledger_id, _), prospect in zip(commands.items(), expected, strict=True):
            verdicts[ledger_id] = self._expected(prospect)
        made: list[Retry] = []
        for one in found:
            decided, why = verdicts[one.id]
            if decided == "send" and not why:
                why = "the database decides" if one.error == "database_error" else "the rules accept it now"
            made.append(Retry(source=one, command_id=one.retry_id, verdict=decided, why=why))
        return made

    def _overtaking(self, one: RejectedCommand, order: LaneOrder) -> tuple[Verdict, str] | None:
        newer = None if self._force else order.newer_than(one.id)
        return None if newer is None else ("refused", newer + FORCE)

    def _expected(self, prospect: Prospect | None) -> tuple[Verdict, str]:
        if prospect is None:
            return "send", ""
        why = f"the cause is still there: {prospect.why}"
        if prospect.never or not self._force:
            return "refused", why
        return "send", why


def _known(one: RejectedCommand, order: LaneOrder) -> tuple[Verdict, str] | None:
    """Whether it was retried before, or cannot be retried any more."""
    if not one.user_id:
        return "refused", "its user was forgotten, and its content erased"
    if one.retry_id in order.waiting_ids:
        return "done", "retried before: the retry waits in its lane"
    if one.retry is not None and one.retry.status != "undecided":
        said = f": {one.retry.message}" if one.retry.message else ""
        return "done", f"retried before: the retry was {one.retry.status}{said}"
    return None


# What an operator did with these rows. None is discarded that was settled before.
_SETTLE = text(f"""
    UPDATE {LEDGER} SET settled = :how
    WHERE id = ANY(CAST(:ids AS bigint[])) AND (settled IS NULL OR :how = 'retried')
    RETURNING id
""")
