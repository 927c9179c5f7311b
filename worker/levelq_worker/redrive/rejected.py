"""Retry rejected commands, or discard them.

A retry is a new command of the same content; its id follows from the old one's. A page of them is locked in the ledger,
examined, pushed, noted there and in the audit, and committed. If that breaks off after the push, the next run finds the
retries by their ids, in the lanes or in the ledger, and notes them; to push one again would change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import LEDGER, schema_of
from levelq_core.domain.commands import Command
from levelq_core.errors import InvalidCommand, QueueUnavailable
from levelq_core.lanes.client import Lanes
from levelq_core.operations.identity import require_bound
from levelq_core.operations.readings.rejected import RejectedCommand, read, settle
from levelq_core.operations.readings.selection import Selection
from levelq_core.settings import Settings

from . import lane_order
from .lane_order import LaneOrder
from .plan import PAGE, Plan, Planned, Send, Verdict, audit_line, pages, set_limits
from .prospects import Prospect, prospects

Retry = Planned[RejectedCommand]
FORCE = "; --force sends it all the same"


class Retrying:
    """Retries rejected commands. Raises RedisError, DBAPIError, ConfigurationError; what was committed before stays.

    `force`: also what would come after newer commands of its lane, or be rejected again. `actor`: see audit.record.
    """

    def __init__(
        self, engine: Engine, lanes: Lanes, settings: Settings, *, force: bool = False, actor: str | None = None
    ) -> None:
        self._engine = engine
        self._lanes = lanes
        self._settings = settings
        self._force = force
        self._actor = actor

    def look(self, selection: Selection, limit: int = PAGE) -> Plan[RejectedCommand]:
        """What a retry would do with the oldest `limit` of a selection. Changes nothing."""
        with self._engine.connect() as connection:
            schema_of(connection)
            require_bound(connection, self._lanes)
            found = read(connection, selection, limit + 1, oldest_first=True)
            return Plan(self._examine(connection, found[:limit]), len(found) > limit)

    def run(self, plan: Plan[RejectedCommand], send: Send) -> Plan[RejectedCommand]:
        """Retry the commands of a plan, each examined once more; what became of them."""
        due = plan.of("send", "done")
        chosen = [one for one in due if one.verdict == "send" or one.source.settled != "retried"]
        line = audit_line("rejected retry", (one.source.lane for one in chosen), self._actor)
        became: dict[int, Retry] = {}
        for page in pages(chosen):
            with self._engine.begin() as connection:
                set_limits(connection, self._settings)
                found, is_away = self._send_page(connection, page, send)
                became |= {one.source.id: one for one in found}
                noted = [one.source.id for one in found if _is_news(one)]
                settle(connection, noted, "retried")
                if noted:
                    line.write(connection, self._detail(became))
            if is_away:
                break
        left = {"verdict": "left", "why": "not tried: Redis did not answer"}
        for one in chosen:
            became.setdefault(one.source.id, one.model_copy(update=left))
        return Plan([became.get(one.source.id, one) for one in plan.entries], plan.more)

    def _send_page(self, connection: Connection, page: Sequence[Retry], send: Send) -> tuple[list[Retry], bool]:
        """Lock the rows, examine the commands and send those that can be; and whether Redis does not answer."""
        connection.execute(_LOCK, {"ids": [one.source.id for one in page]})
        ids = tuple(one.source.command_id for one in page)
        found = self._examine(connection, read(connection, Selection(ids), len(ids), oldest_first=True))
        open_then = {one.source.id for one in page if one.source.settled is None}
        found = [_discarded(one) if one.source.id in open_then else one for one in found]
        chosen = [one for one in found if one.verdict == "send"]
        errors = send([one.source.retried() for one in chosen]) if chosen else []
        sent = {one.source.id: one.after(error) for one, error in zip(chosen, errors, strict=True)}
        is_away = any(isinstance(error, QueueUnavailable) for error in errors)
        return [sent.get(one.source.id, one) for one in found], is_away

    def _detail(self, became: dict[int, Retry]) -> dict[str, object]:
        """For the audit: which command was retried as which."""
        retried = {str(one.source.command_id): str(one.command_id) for one in became.values() if _is_news(one)}
        left = sum(one.verdict == "left" for one in became.values())
        return {"retried": len(retried), "left": left, "force": self._force, "commands": retried}

    def _examine(self, connection: Connection, found: Sequence[RejectedCommand]) -> list[Retry]:
        """What to do with each of these commands, which are in the ledger's order."""
        lanes = {one.lane for one in found if one.user_id}
        orders = lane_order.read(connection, self._lanes, lanes, {one.retry_id: one.id for one in found})
        verdicts: dict[int, tuple[Verdict, str]] = {}
        commands: dict[int, Command] = {}
        for one in found:
            verdict = _known(one, orders.get(one.lane, LaneOrder())) or self._overtaking(one, orders[one.lane])
            try:
                commands |= {} if verdict else {one.id: one.retried()}
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


def discard(
    engine: Engine, settings: Settings, commands: Sequence[RejectedCommand], *, actor: str | None = None
) -> int:
    """Settle these rejections without a retry; returns how many were not settled before.

    Their ledger rows stay: by them a second send of the same id is recognized. Raises DBAPIError.
    """
    chosen = [one for one in commands if one.settled is None]
    line = audit_line("rejected discard", (one.lane for one in chosen), actor)
    names: list[str] = []
    for page in pages(chosen):
        with engine.begin() as connection:
            set_limits(connection, settings)
            connection.execute(_LOCK, {"ids": [one.id for one in page]})
            settled = settle(connection, [one.id for one in page], "discarded")
            names += [str(one.command_id) for one in page if one.id in settled]
            if settled:
                line.write(connection, {"discarded": len(names), "commands": names})
    return len(names)


def _is_news(one: Retry) -> bool:
    """Whether it was sent by this run, or by one that broke off before it could note that."""
    return one.verdict == "sent" or (one.verdict == "done" and one.source.settled != "retried")


def _discarded(one: Retry) -> Retry:
    """What to do with a command that was open when the run was planned."""
    if one.source.settled != "discarded":
        return one
    return one.model_copy(update={"verdict": "refused", "why": "it was discarded meanwhile"})


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


# Lock the ledger rows of a page: no other operator retries or discards them meanwhile.
_LOCK = text(f"SELECT FROM {LEDGER} WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE")
