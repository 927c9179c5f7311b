"""Put every pair of levels in step: what `levelq sync --all` does, up to a size that a request can wait for."""

from __future__ import annotations

from levelq_core.errors import InvalidArgument
from levelq_core.lanes import drift_report
from levelq_core.operations.connections import redis_of
from levelq_core.operations.drift.adoption import Adoption
from levelq_core.operations.drift.repairs import Policy
from levelq_core.operations.wording import count, one_line
from levelq_core.untrusted_text import quoted

from .act import Asked, Field, Plan, act
from .connected import connected

MOST_COMPARED = 2_000_000  # pairs, of the last audit: both tables are read whole, some seconds for a million
MOST_REPAIRED = 10_000  # pairs, at 2,000 a second
_SOURCES: dict[str, tuple[Policy, str]] = {
    "higher": ("higher", "the higher of both levels"),
    "progress": ("progress", "the level of the progress"),
    "license": ("license", "the level of the license"),
}


def _source(asked: Asked) -> Policy:
    """Of the form; the higher one unless given. Raises InvalidArgument."""
    given = asked.values.get("source", "higher")
    if given not in _SOURCES:
        message = f"source: expected {', '.join(_SOURCES)}, got {quoted(given)}"
        raise InvalidArgument(message, field="source", value=given)
    return _SOURCES[given][0]


def _plan(asked: Asked) -> Plan:
    settings = asked.console.settings
    with redis_of(settings) as redis:
        last = drift_report.read(redis, settings.keys)
    found = "No audit has ended yet."
    if last is not None:
        found = f"The last audit found {count(last.remaining, 'pair')} of {last.compared:,} out of step."
    happens = (
        found,
        "Each pair is read again and repaired as it is then, at once, without the queue, in small transactions.",
        "The level of one side is copied to the other, whose row is made if it is missing. "
        "XP, sessions, projects and hours stay; the highest level never falls. The progressions get a line.",
        "Then a worker audits all pairs again.",
    )
    return Plan(
        title="Put all pairs of levels in step",
        happens=happens,
        fields=(
            Field(
                "source",
                "Copy",
                _source(asked),
                tuple((name, words) for name, (_, words) in _SOURCES.items()),
                "The higher level takes none from a user.",
            ),
        ),
        command=f"levelq sync --all --source {_source(asked)}",
        button="Repair all",
        back="/drift",
        impossible=_impossible(last),
    )


def _impossible(last: drift_report.DriftReport | None) -> str | None:
    if last is None:
        return "An audit must end first: it says how many pairs there are."
    if last.compared > MOST_COMPARED or last.remaining > MOST_REPAIRED:
        return "That takes longer than a page can wait: run the command line."
    return None if last.remaining else "The last audit found every pair in step."


def _perform(asked: Asked) -> str:
    settings = asked.console.settings
    with connected(asked) as at, redis_of(settings) as redis:
        done = Adoption(
            at.engine, settings, _source(asked), rows=False, audited=("sync", "everything"), actor=asked.actor
        ).run()
        drift_report.request_audit(redis, settings.keys)
    failed = "".join(f" {number:,} failed: {one_line(why)}." for why, number in done.failed.items())
    return f"{count(done.total, 'pair')} repaired.{failed} A worker audits all pairs again now."


route = act("sync-all", _plan, _perform)
