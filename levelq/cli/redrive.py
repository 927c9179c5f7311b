"""What `levelq rejected` and `levelq quarantine` share: their options, show, retry and discard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from typer import Exit, Option

from .options import time_of
from .screen import Listing, confirm, count, err, never_ask, one_line, print_json, print_line, verdict

if TYPE_CHECKING:
    from levelq_core.domain.commands import Command
    from levelq_core.errors import LevelqError
    from levelq_core.operations.readings.selection import Selection
    from levelq_producer import Handle, Producer
    from levelq_worker.redrive.plan import Plan
    from levelq_worker.redrive.redriving import Redriving

Listed = Annotated[int, Option(min=1, max=10_000, help="How many at most, the newest first.")]
Acted = Annotated[int, Option(min=1, max=10_000, help="How many at most, the oldest first.")]
Force = Annotated[bool, Option("--force", help="Also out of order, or though the cause is still there.")]
Wait = Annotated[bool, Option("--wait/--no-wait", help="Wait for the outcomes and print them.")]
Timeout = Annotated[float, Option(metavar="SECONDS", min=0.001, help="How long --wait waits.")]

_STYLES = {"send": "green", "sent": "bold green", "done": "dim", "refused": "yellow", "left": "bold red"}
_WORDS = {"done": "before"}  # how a verdict is shown, if not as it is named


def selection_of(
    ids: Sequence[Any] | None,
    user: int | None = None,
    specialization: str | None = None,
    reason: str | None = None,
    since: str | None = None,
    until: str | None = None,
    error: str | None = None,
    *,
    settled: bool = False,
) -> Selection:
    """What the options select. Raises ConfigurationError, InvalidArgument."""
    from levelq_core.operations.readings.selection import Selection

    name = None if specialization is None else specialization.upper()
    begin, end = time_of("--since", since), time_of("--until", until)
    return Selection(tuple(ids or ()), user, name, error, reason, begin, end, settled)


def require_all(wanted: Sequence[Any] | None, found: Sequence[Any], thing: str) -> None:
    """Name ids that were given and not found, and end the command if none was: nothing is done. Raises Exit."""
    for missing in (absent := sorted(set(wanted or ()) - set(found))):
        print_line(f"no {thing} {missing}", on=err)
    if absent and not found:
        raise Exit(2)


def print_listed(shown: Listing, found: int, limit: int, thing: str) -> None:
    """A listing, and whether there are more."""
    if not found:
        print_line(f"no {thing} matches")
        return
    shown.print()
    if found > limit:
        print_line(f"more than {limit:,} match: raise --limit, or narrow it down", "dim")


def print_facts(facts: Iterator[tuple[str, Any]]) -> None:
    """Lines of a label and a value, without those that are empty."""
    for label, value in facts:
        if value not in (None, "", 0):
            print_line(verdict(f"{label:>12}", "dim", f"  {one_line(str(value))}"))


def show_each(kind: type[Redriving[Any]], ids: Sequence[Any], show: Callable[[Any], None]) -> None:
    """Show these, and what a retry would do with each: unknown while Redis does not answer."""
    from levelq_core.errors import ConfigurationError

    from .connections import database_of, lanes_of, load

    settings, selection = load(), selection_of(ids)
    with database_of(settings) as engine:
        for one in (found := kind.rows.newest(engine, selection, limit=len(ids))):
            show(one)
        try:
            with lanes_of(settings) as lanes:
                for planned in kind(engine, lanes, settings).look(selection).entries:
                    print_line(f"retry of {planned.source.key}: {planned.verdict}: {one_line(planned.why)}")
        except ConfigurationError as error:
            print_line(f"retry: unknown: {one_line(str(error))}", on=err)
    require_all(ids, [one.key for one in found], kind.name)


def discard_each(
    kind: type[Redriving[Any]],
    selection: Selection,
    columns: Mapping[str, str],
    limit: int,
    *,
    warning: str = "",
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show what is selected, ask, and discard it. What was settled before is left.

    `columns`: by their headings, the fields that tell kinds of it apart. `warning`: what its discarding also does.
    """
    from levelq_worker.redrive.plan import alike

    from .connections import database_of, load

    never_ask(as_json, yes=yes or dry_run)
    settings, limit, cells = load(), max(limit, len(selection.ids)), attrgetter(*columns.values())
    with database_of(settings) as engine:
        with engine.connect() as connection:
            found = kind.rows.read(connection, selection, limit + 1, oldest_first=True)
        require_all(selection.ids, [one.key for one in found], kind.name)
        chosen = [one for one in found[:limit] if one.settled is None]
        before = len(found[:limit]) - len(chosen)
        if not as_json and before:
            print_line(f"{count(before, kind.name)} settled before")
        if not as_json and (chosen or not found):
            shown = Listing("Number", *columns, right=("Number",), folding="Why")
            for group in alike(chosen, lambda one: " ".join(cells(one))):
                shown.add(len(group), *map(one_line, cells(group[0])))
            print_listed(shown, len(chosen) + (len(found) > limit), len(chosen), kind.name)
        discarded = 0
        if chosen and not dry_run:
            confirm(f"Discard {count(len(chosen), kind.name)}?{warning}", yes=yes)
            discarded = kind.discard(engine, settings, chosen)
    if as_json:
        print_json({"dry_run": dry_run, "matched": len(chosen), "discarded": discarded})
    elif discarded:
        print_line(f"{count(discarded, kind.name)} discarded")


class _Sender:
    """Sends through a producer, and keeps the handles of what is waited for."""

    def __init__(self, producer: Producer, *, reply: bool) -> None:
        self._producer, self._reply = producer, reply
        self._handles: list[Handle] = []

    def __call__(self, commands: Sequence[Command]) -> list[LevelqError | None]:
        handles = self._producer.send_many(commands, reply=self._reply)
        self._handles += handles
        return [handle.error for handle in handles]

    def outcomes(self, seconds: float) -> Iterator[tuple[UUID, str, str]]:
        """Of each command that was sent: its id, applied, rejected or undecided, and the message."""
        from levelq_core.errors import LevelqError, NotDurable, OutcomeTimeout

        end = time.monotonic() + seconds
        for handle in self._handles:
            if handle.error is not None and not isinstance(handle.error, NotDurable):
                continue
            try:
                outcome = handle.result(max(0.001, end - time.monotonic()))
                yield handle.command_id, outcome.status, outcome.message
            except OutcomeTimeout as error:
                _, _, why = str(error).partition("; ")  # all wait until one end, so the time in its words says nothing
                yield handle.command_id, "undecided", f"not decided within {seconds:g} s; {why}"
            except LevelqError as error:
                yield handle.command_id, "undecided", str(error)


def retry_each(
    kind: type[Redriving[Any]],
    selection: Selection,
    limit: int,
    *,
    force: bool,
    seconds: float | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show the plan, ask, run it, and show what became of it; `seconds`: how long to wait for outcomes. Raises Exit."""
    from .connections import database_of, lanes_of, load

    never_ask(as_json, yes=yes or dry_run)
    settings, outcomes = load(), list[tuple[UUID, str, str]]()
    with lanes_of(settings) as lanes, database_of(settings) as engine:
        acting = kind(engine, lanes, settings, force=force)
        plan = acting.look(selection, max(limit, len(selection.ids)))
        require_all(selection.ids, [one.source.key for one in plan.entries], kind.name)
        chosen = plan.of("send")
        if not as_json:
            _print_plan(plan, kind.name)
        if not dry_run and plan.of("send", "done"):
            if chosen:
                confirm(f"Send {count(len(chosen), kind.name)} once more?", yes=yes)
            from levelq_producer import Producer

            with Producer(settings) as producer:
                sender = _Sender(producer, reply=seconds is not None)
                plan = acting.run(plan, sender)
                if seconds is not None:
                    outcomes = [*sender.outcomes(seconds)]
    if as_json:
        entries = [one.model_dump(mode="json") for one in plan.entries]
        decided = [{"command_id": str(i), "status": s, "message": m} for i, s, m in outcomes]
        print_json({"dry_run": dry_run, "more": plan.more, "entries": entries, "outcomes": decided})
    elif chosen and not dry_run:
        _print_done(plan, kind.name, outcomes)
    bad = plan.of("refused", "left") or any(status != "applied" for _, status, _ in outcomes)
    raise Exit(1 if bad else 0)


def _print_plan(plan: Plan[Any], thing: str) -> None:
    from levelq_worker.redrive.plan import alike

    shown = Listing("Number", "Retry", "Why", "For example", right=("Number",), folding="Why")
    for group in alike(plan.entries, lambda one: f"{one.verdict} {one.why}"):
        one = group[0]
        word = verdict(_WORDS.get(one.verdict, one.verdict), _STYLES[one.verdict], "")
        shown.add(len(group), word, one_line(one.why), f"{one.source.user_id} {one.source.specialization}")
    print_listed(shown, len(plan.entries) + plan.more, len(plan.entries), thing)


def _print_done(plan: Plan[Any], thing: str, outcomes: Sequence[tuple[UUID, str, str]]) -> None:
    from levelq_worker.redrive.plan import alike

    print_line(f"{count(len(plan.of('sent')), thing)} sent once more")
    for left in alike(plan.of("left"), lambda one: str(one.why)):
        print_line(verdict("left", "bold red", f"  {len(left):,}: {one_line(left[0].why)}"))
    for group in alike(outcomes, lambda outcome: f"{outcome[1]} {outcome[2]}"):
        _, status, message = group[0]
        style = "bold green" if status == "applied" else "bold red"
        print_line(verdict(status, style, f"  {len(group):,}: {one_line(message)}"))
