"""`levelq explain`: what waits for a user and why, what was decided, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text
from typer import Argument, BadParameter, Option

from .options import AsJson, Since, check_user, time_of
from .screen import count, out, print_json, print_line, printable, refused, verdict, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from levelq_core.operations.readings.explanation import Explanation, LaneExplanation
    from levelq_core.operations.readings.timeline import Event
    from levelq_core.operations.readings.waiting import WaitingLane

_STYLES = {"applied": "green", "rejected": "red", "quarantined": "yellow", "waiting": "bold yellow", "audit": "cyan"}


def explain(
    user: Annotated[
        int | None, Argument(metavar="USER", help="The user's id; not with --command.", callback=check_user)
    ] = None,
    specialization: Annotated[
        str | None, Argument(metavar="SPECIALIZATION", help="Default: all of the user's.")
    ] = None,
    since: Since = None,
    limit: Annotated[int, Option(min=1, max=10_000, help="The newest events of each kind.")] = 20,
    command: Annotated[UUID | None, Option(metavar="ID", help="Explain the lane of this command.")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain what waits for a user and why, what was decided, and what to do next.

    One timeline over Redis and PostgreSQL, the newest last. The last line is the reason and the next step.
    """
    from levelq_core.operations.readings.explanation import explain as read
    from levelq_core.operations.readings.lane_search import find_lane

    from .connections import load

    settings = load()
    if command is not None and user is None:
        its_lane = find_lane(settings, command)
        if its_lane is None:
            raise refused(f"--command: {command} is neither in the ledger nor in the outbox nor in a lane")
        specialization, user = its_lane
    elif user is None or command is not None:
        raise BadParameter("expected either USER or --command ID")
    found = read(settings, user, specialization, since=time_of("--since", since), limit=limit)
    if as_json:
        print_json(found)
        return
    _print_events(found.events)
    for lane in found.lanes:
        _print_lane(lane)
    for line in _remarks(found):
        print_line(line)
    out.print(Text(printable(found.conclusion), "bold"), soft_wrap=not out.is_terminal)


def _print_events(events: tuple[Event, ...]) -> None:
    """One line for each, folded under itself; below it, in which batch and transaction by whom it was decided."""
    rows = Table.grid(Column(no_wrap=True, style="dim"), Column(overflow="fold"), padding=(0, 1))
    for event in events:
        name = f" {event.specialization} " if event.specialization else " "
        said = Text.assemble((event.what, _STYLES.get(event.what, "")), name, printable(event.summary))
        if event.command_id is not None:
            said.append(f"\n{event.command_id}", "dim")
        if "batch" in event.detail:
            detail = event.detail
            by = detail.get("worker", detail["source"])  # a direct call has no worker
            said.append(printable(f" tx {detail['xid']} batch ..{str(detail['batch'])[-12:]} {by}"), "dim")
        rows.add_row(when(event.at), said)
    if events:
        out.print(rows)
        out.print()


def _print_lane(lane: LaneExplanation) -> None:
    """The levels of a specialization, and what waits in it."""
    levels = Text("no rows") if lane.levels is None else Text(lane.levels.in_words())
    if lane.levels is not None and not lane.levels.in_step:
        levels.stylize("bold red")
    out.print(Text.assemble((lane.specialization, "bold"), " ", levels))
    said = [line for waiting in lane.lanes for line in _waiting_lines(waiting)]
    if lane.outbox is not None:
        said.append(f"outbox: {count(lane.outbox.total, 'command')}, {lane.outbox.unpushed} never pushed")
    if lane.workers is not None:
        said.append(f"workers: {lane.workers}")
    for holder in lane.holders:
        said.append(f"rows locked by {holder.in_words()}: {holder.query}")
    for line in said:
        out.print(Padding(Text(printable(line)), (0, 0, 0, 2)))


def _waiting_lines(lane: WaitingLane) -> Iterator[str]:
    """What waits in a lane, since when it might be claimed, and who has claimed it."""
    waiting = "its key is no list" if lane.waiting is None else f"{count(lane.waiting, 'command')} waiting"
    if lane.claimed_until is not None:
        state = f"claimed by {lane.claimed_by or 'a worker'} until {when(lane.claimed_until)}"
    elif lane.parked is not None and lane.due_at is not None:
        attempts = count(lane.parked.attempts, "attempt")
        state = f"parked since {when(lane.parked.since)}, {attempts}, until {when(lane.due_at)}"
    else:
        state = (
            "not due"
            if lane.due_at is None
            else f"due since {when(lane.due_at)}, {count(lane.ahead, 'lane')} before it"
        )
    yield f"{waiting}; {state}"
    if lane.parked is not None:
        yield f"why: {lane.parked.reason}"
    if lane.paused is not None:
        whose = "the specialization" if lane.paused.user is None else "this user"
        yield f"{whose} is {lane.paused.how}"


def _remarks(found: Explanation) -> Iterator[Text]:
    for consumer, unread in found.unread.items():
        if unread:
            yield Text(f"consumer {consumer} has yet to read {count(unread, 'level change')} of this user")
    for problem in found.problems:
        yield verdict("unknown", "bold yellow", f"  {problem}")
    for note in found.notes:
        yield verdict("note", "bold yellow", f"  {note}")
    for lane in found.lanes[:-1]:
        if lane.cause != "fine":
            yield Text(printable(lane.conclusion))
    for lane in found.lanes:
        for line in lane.also:
            yield verdict("also", "bold yellow", f"  {line}")
