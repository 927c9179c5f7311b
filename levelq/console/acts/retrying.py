"""Send rejected commands or quarantined entries once more: `levelq rejected retry` and `levelq quarantine retry`."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlencode

from levelq_core.operations.wording import count
from levelq_core.untrusted_text import printable
from levelq_producer import Producer
from levelq_worker.redrive.plan import Plan as Redrive
from levelq_worker.redrive.plan import Planned, alike

from .act import Asked, Plan, act
from .chosen import KINDS, MOST, Chosen, Kind, both

_MOST_GROUPS = 3  # in the notice of what was done, which a cookie carries
_MOST_WHY = 150  # characters of each
_SAID = {"send": "will be sent", "done": "nothing to do", "refused": "refused", "sent": "sent", "left": "left"}


def _plan(kind: Kind, asked: Asked) -> Plan:
    chosen, force = Chosen.of(kind, asked), _force(asked)
    with both(asked) as (engine, lanes):
        seen = _look(chosen, kind.redriving(engine, lanes, asked.console.settings, force=force))
    due = seen.due()
    sending, refused = len(seen.of("send")), len(seen.of("refused"))
    happens = chosen.missing([one.source for one in seen.entries])
    if sending:
        happens += [f"{count(sending, kind.name)} will be sent to the lanes once more, the oldest first. {kind.sends}"]
    if refused:
        happens += [f"{refused:,} will be refused: they stay here as they are. The table says why."]
    if seen.of("done"):
        happens += [f"{len(seen.of('done')):,} retried before: they are not sent again."]
    if seen.more:
        happens += [f"More match. These are the oldest {MOST:,}; do it again for the others."]
    if force:
        happens += ["Forced: also out of order, or though the cause is still there."]
    return Plan(
        title=f"Retry {chosen.said()}",
        happens=tuple(happens),
        table=_groups(seen.entries),
        command=chosen.command("retry", *(["--force"] if force else [])),
        button=f"Retry {count(len(due), kind.name)}",
        back=chosen.back,
        impossible=None if due else _why_not(kind, seen),
        kept=chosen.keep([one.source for one in due]),
        instead=(_other(kind, asked, force),) if refused or force else (),
    )


def _perform(kind: Kind, asked: Asked) -> str:
    chosen, settings = Chosen.of(kind, asked), asked.console.settings
    chosen.require_shown()
    with both(asked) as (engine, lanes), Producer(settings) as producer:
        acting = kind.redriving(engine, lanes, settings, force=_force(asked), actor=asked.actor)
        done = acting.run(
            _look(chosen, acting),
            lambda commands: [handle.error for handle in producer.send_many(commands, reply=False)],
        )
    said = [f"{count(len(done.of('sent')), kind.name)} sent once more"]
    for verdict in ("left", "refused"):
        groups = alike(done.of(verdict), lambda one: one.why)
        said += [f"{len(group):,} {verdict}: {printable(group[0].why, _MOST_WHY)}" for group in groups[:_MOST_GROUPS]]
        said += [f"{sum(map(len, groups[_MOST_GROUPS:])):,} more {verdict}"] if len(groups) > _MOST_GROUPS else []
    if done.of("sent"):
        said.append("a worker decides them now")
    return "; ".join(said) + "."


def _look(chosen: Chosen, acting: Any) -> Redrive[Any]:
    selection = chosen.selection()
    seen: Redrive[Any] = acting.look(selection, max(MOST, len(selection.ids)))
    return seen._replace(entries=[one for one in seen.entries if chosen.is_due(one.source)])


def _groups(entries: list[Planned[Any]]) -> tuple[tuple[str, ...], ...]:
    rows = [
        (
            f"{len(group):,}",
            _SAID[group[0].verdict],
            group[0].why,
            f"user {group[0].source.user_id or '-'} {group[0].source.specialization}",
        )
        for group in alike(entries, lambda one: f"{one.verdict} {one.why}")
    ]
    return (("Number", "Retry", "Why", "For example"), *rows) if rows else ()


def _why_not(kind: Kind, seen: Redrive[Any]) -> str:
    if not seen.entries:
        return f"No {kind.name} matches any more."
    return "None of them can be sent: the table says why."


def _other(kind: Kind, asked: Asked, force: bool) -> tuple[str, str]:
    """The link to the same retry with force, or without."""
    fields = [("id", one) for one in asked.ids]
    fields += [(name, text) for name, text in asked.values.items() if name not in ("id", "force", "kept", "csrf")]
    if force:
        return f"/act/retry-{kind.act}?{urlencode(fields)}", "Without force"
    address = f"/act/retry-{kind.act}?{urlencode([*fields, ('force', 'yes')])}"
    return address, "Show what --force would send: also out of order, or though the cause is still there"


def _force(asked: Asked) -> bool:
    return asked.values.get("force") == "yes"


routes = [act(f"retry-{kind.act}", partial(_plan, kind), partial(_perform, kind)) for kind in KINDS]
