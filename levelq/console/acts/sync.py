"""Put one pair of levels in step: `levelq sync USER SPECIALIZATION`."""

from __future__ import annotations

from levelq_core.domain.commands import SyncLevels, build
from levelq_core.errors import ConfigurationError, InvalidArgument
from levelq_core.operations.audit import user_target
from levelq_core.operations.drift.one_pair import sync_pair
from levelq_core.operations.readings.history import History
from levelq_core.operations.readings.levels import Levels
from levelq_core.untrusted_text import quoted

from .act import Asked, Field, Plan, act
from .connected import connected
from .scopes import lane_of

_SIDES = {"progress": "license", "license": "progress"}  # the side that is copied, and the one that it is copied to


def _plan(asked: Asked) -> Plan:
    user_id, name = lane_of(asked)
    with connected(asked) as at:
        levels = next((found for found in History(at.engine).levels(user_id) if found.specialization == name), None)
    sides = {} if levels is None else {"progress": levels.progress_level, "license": levels.license_level}
    known = {side: level for side, level in sides.items() if level is not None}
    source = asked.values.get("source", "")
    if source not in known:  # the higher one takes no level from the user
        source = max(known, key=lambda side: known[side], default="progress")
    return Plan(
        title=f"Put the levels of user {user_id} in {name} in step",
        happens=(
            "The level of one side is copied to the other, whose row is made if it is missing.",
            "It is done at once, without the queue: commands that wait are applied after it.",
            "XP, sessions, projects and hours stay; the highest level never falls. The progressions get a line.",
        ),
        table=() if levels is None else _table(levels, known),
        fields=(
            Field(
                "source",
                "Copy the level of",
                value=source,
                choices=tuple((side, f"the {side}: both become level {level}") for side, level in known.items()),
                help="The side that code other than levelq did not write is mostly right.",
            ),
        )
        if known
        else (),
        command=f"levelq sync {user_id} {name} --source {source}",
        button="Copy the level",
        back=f"/users/{user_id}",
        impossible=_impossible(user_id, name, levels, known),
    )


def _impossible(user_id: int, name: str, levels: Levels | None, known: dict[str, int]) -> str | None:
    if levels is None or not known:
        return f"User {user_id} has no level in {name}: there is nothing to copy."
    if levels.in_step:
        return f"Both levels are {levels.progress_level} already."
    return None


def _table(levels: Levels, known: dict[str, int]) -> tuple[tuple[str, ...], ...]:
    """The levels now, and what each source makes of them."""
    highest = levels.max_achieved_level
    rows = [("now", *map(_shown, (levels.progress_level, levels.license_level, highest)))]
    for side, level in known.items():
        rows.append((f"if the {side} is copied", str(level), str(level), str(max(highest or 0, level))))
    return (("", "Progress", "License", "Highest"), *rows)


def _shown(level: int | None) -> str:
    return "none" if level is None else str(level)


def _perform(asked: Asked) -> str:
    user_id, name = lane_of(asked)
    source = asked.values.get("source", "")
    if source not in _SIDES:
        message = f"source: expected progress or license, got {quoted(source)}"
        raise InvalidArgument(message, field="source", value=source)
    command = build(SyncLevels, user_id=user_id, specialization=name, source=source)
    with connected(asked) as at:
        result = sync_pair(at.engine, asked.console.settings, command, actor=asked.actor)
    pair = user_target(user_id, name)
    if result["success"]:
        return f"{pair}: {result['action'].replace('_', ' ')}, both levels are {result['final_level']}."
    if result["error_type"] == "validation_error":
        raise InvalidArgument(f"{pair}: {result['message']}", field="source", value=source)
    message = f"LEVELQ_DATABASE_URL: {pair} not synced: {result['message']}"
    raise ConfigurationError(message, setting="LEVELQ_DATABASE_URL", value=None)


route = act("sync", _plan, _perform)
