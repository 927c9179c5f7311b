"""Restore to the lanes what Redis lost of the outbox, and remove keys that cannot be read: `levelq rebuild`."""

from __future__ import annotations

from levelq_core.operations.backlog import backlog
from levelq_core.operations.wording import count, duration, one_line
from levelq_core.untrusted_text import printable
from levelq_worker.relay.rebuild import Rebuild

from .act import Asked, Plan, act
from .connected import connected
from .scopes import require_specialization


def _plan(asked: Asked) -> Plan:
    settings = asked.console.settings
    name = require_specialization(asked)
    with connected(asked) as at:
        faults = Rebuild(at.engine, at.lanes, at.rq, settings).look([name])
        left = backlog(at.lanes, at.engine, [name])
    happens = [
        f"Commands of the outbox that Redis has lost go back to the head of their lanes, in order: {left.rows:,} "
        f"undecided ones of {name} are looked through.",
        "A command that is in a lane twice is applied once: it is safe at any time, also twice.",
        f"Workers take nothing of {name} meanwhile: it waits until they have finished {count(left.claimed, 'lane')}, "
        f"{duration(settings.claim_seconds)} at most.",
    ]
    if faults:
        happens.append(f"{count(len(faults), 'key')} that levelq cannot read are removed first, whatever they hold:")
    else:
        happens.append("All keys of levelq can be read: none is removed.")
    return Plan(
        title=f"Rebuild {name}",
        happens=tuple(happens),
        table=(("Removed", "Because"), *((_shown(f.key), one_line(f.what)) for f in faults)) if faults else (),
        command=f"levelq rebuild {name}",
        button=f"Rebuild {name}",
        back=f"/partitions/{name}",
        dangerous=bool(faults),
    )


def _shown(key: str) -> str:
    return printable(key, 120)


def _perform(asked: Asked) -> str:
    settings = asked.console.settings
    name = require_specialization(asked)
    steps: list[str] = []
    with connected(asked) as at:
        done = Rebuild(at.engine, at.lanes, at.rq, settings, actor=asked.actor).run([name], steps.append)
    removed = f", {count(done['removed_keys'], 'key')} removed" if done["removed_keys"] else ""
    again = f", {count(done['lanes_ready_again'], 'lane')} ready again" if done["lanes_ready_again"] else ""
    return f"{name}: {count(done['commands_restored'], 'command')} put back into lanes{removed}{again}."


route = act("rebuild", _plan, _perform)
