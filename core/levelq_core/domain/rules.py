"""What the commands mean: pure functions from a lane's state and a command to a decision.

A state is the lane's two rows as a tuple, in the order of `Totals`. A level of 0: the row does not exist.
"""

from __future__ import annotations

from typing import NamedTuple

from .catalog import Catalog, Track
from .record import ADJUST, EARNED, LEVEL_UP, RESET, SET_LEVEL, SYNC_LEVELS, Lane, Record, new_tuple

State = tuple[int, int, int, int, int, int, int, int]
NOTHING: State = (0, 0, 0, 0, 0, 0, 0, 0)
FIELDS = (
    "progress_level", "license_level", "max_achieved_level",
    "total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours",
)  # fmt: skip


class Limits(NamedTuple):
    """The greatest values the database's columns hold; the defaults are those of levelq's own tables."""

    totals: tuple[int, int, int, int, int] = (2**63 - 1,) * 5
    level: int = 2**31 - 1
    user_id: int = 2**63 - 1
    advanced_by: int = 2**63 - 1
    specialization: int = 32
    reason: int = 500


class Decision(NamedTuple):
    """What was decided on one command; `error` is None exactly when it was applied."""

    error: str | None
    message: str
    from_level: int | None = None
    to_level: int | None = None
    before: State | None = None
    after: State | None = None
    duplicate: bool = False


def refuse(error: str, message: str, state: State | None = None) -> Decision:
    """A rejection that leaves the state as it is."""
    known = state if state and (state[0] or state[1]) else None
    return Decision(error, message, before=known, after=known)


def started(state: State) -> State:
    """The state every command but a SyncLevels starts from, with the missing rows made.

    Both missing: level 1. One missing: the other's level.
    """
    progress, license_, highest = state[:3]
    if progress and license_:
        return state
    level = progress or license_ or 1
    return (progress or level, license_ or level, highest if license_ else level, *state[3:])


def lane_refusal(lane: Lane, catalog: Catalog, limits: Limits) -> str | None:
    """Why no command of this lane can ever be applied; None if some can."""
    if lane.specialization not in catalog:
        return f"specialization: expected one of {', '.join(catalog)}, got {lane.specialization!r}"
    if lane.user_id > limits.user_id:
        return f"user_id: expected at most {limits.user_id}, as the column holds, got {lane.user_id}"
    if len(lane.specialization) > limits.specialization:
        return f"specialization: expected at most {limits.specialization} characters, got {lane.specialization!r}"
    return None


def forbidden(record: Record, track: Track, limits: Limits) -> str | None:
    """Why this command can never be applied, whatever the rows hold; None if it can."""
    _, _, kind, advanced_by, level, _, _, _, theory, practice, reason, _, _, _ = record
    if (theory or practice) and not track.tracks_hours:
        field, value = ("theory", theory) if theory else ("practice", practice)
        suffix = "_change" if kind in (SET_LEVEL, ADJUST) else ""
        return f"{field}_hours{suffix}: {track.name} does not track hours, expected 0, got {value}"
    if kind == SET_LEVEL and not 1 <= level <= track.max_level:
        return f"new_level: expected 1 to {track.max_level} for {track.name}, got {level}"
    if kind == RESET and level != EARNED and not 1 <= level <= track.max_level:
        return f"level: expected 'earned' or 1 to {track.max_level} for {track.name}, got {level}"
    if advanced_by and advanced_by > limits.advanced_by:
        return f"advanced_by: expected at most {limits.advanced_by}, as the column holds, got {advanced_by}"
    if reason and len(reason) > limits.reason:
        return f"reason: expected at most {limits.reason} characters, as the column holds, got {len(reason)}"
    return None


def decide(state: State, record: Record, track: Track, limits: Limits) -> Decision:
    """Apply one command to a state whose rows are locked."""
    never = forbidden(record, track, limits)
    if never is not None:
        return refuse("validation_error", never, state)
    if record.kind == SYNC_LEVELS:
        return _sync(state, record, limits)
    return _change(started(state), record, track, limits, state)


def _change(before: State, record: Record, track: Track, limits: Limits, found: State) -> Decision:
    progress, license_, highest, xp, sessions, projects, theory, practice = before
    _, _, kind, _, wanted, more_xp, more_sessions, more_projects, more_theory, more_practice, _, _, _, _ = record
    if kind == RESET:
        xp = sessions = projects = theory = practice = 0
    xp += more_xp
    sessions += more_sessions
    projects += more_projects
    theory += more_theory
    practice += more_practice
    totals = (xp, sessions, projects, theory, practice)
    most_xp, most_sessions, most_projects, most_theory, most_practice = limits.totals
    if (
        xp < 0 or sessions < 0 or projects < 0 or theory < 0 or practice < 0
        or xp > most_xp or sessions > most_sessions or projects > most_projects
        or theory > most_theory or practice > most_practice
    ):  # fmt: skip
        return _out_of_range(before, totals, limits, found, is_reset=kind == RESET)
    if kind == LEVEL_UP:
        level = track.level_for(totals)
        if level < progress or level < license_:
            level = max(progress, license_)
    elif wanted == EARNED:
        level = track.level_for(totals)
    elif kind == ADJUST:
        level = max(progress, license_)
    else:
        level = wanted
    if level > limits.level:
        return _level_too_high(level, limits, found)
    after = (level, level, highest if highest > level else level, xp, sessions, projects, theory, practice)
    return new_tuple(Decision, (None, "", license_, level, before, after, False))


def _level_too_high(level: int, limits: Limits, found: State) -> Decision:
    return refuse("validation_error", f"level {level} does not fit its column (at most {limits.level})", found)


def _out_of_range(before: State, totals: tuple[int, ...], limits: Limits, found: State, *, is_reset: bool) -> Decision:
    """Name the first total that would leave its range."""
    for field, old, new, bound in zip(FIELDS[3:], before[3:], totals, limits.totals, strict=True):
        if new < 0:
            return refuse("validation_error", f"{field}: {old} {new - old:+d} would go below zero", found)
        if new > bound:
            change = f"{new}" if is_reset else f"{old} {new - old:+d}"
            text = f"{field}: {change} would overflow its column (at most {bound})"
            return refuse("validation_error", text, found)
    raise AssertionError("called with totals that are all in range")


def _sync(state: State, record: Record, limits: Limits) -> Decision:
    progress, license_, highest = state[:3]
    source, level = ("license", license_) if record.level else ("progress", progress)
    if level < 1:
        return refuse("validation_error", f"source: there is no {source} row with a level to copy", state)
    if level > limits.level:
        return _level_too_high(level, limits, state)
    after = (level, level, max(highest, level), *state[3:])
    return Decision(None, "", license_ or level, level, state, after)


def sync_action(before: State, source: int) -> str:
    """What an applied SyncLevels did to the state it found: the `action` of its result."""
    progress, license_ = before[:2]
    if progress == license_:
        return "none"
    other, exists = ("progress", progress) if source else ("license", license_)
    return f"{'updated' if exists else 'created'}_{other}"


def describe(record: Record, decision: Decision) -> str:
    """The message of a decision: why it was rejected, or what it did."""
    if decision.error:
        return decision.message
    old, new = decision.from_level, decision.to_level
    if record.kind == SYNC_LEVELS:
        assert decision.before is not None
        return f"{sync_action(decision.before, record.level)}: both at level {new}"
    return f"level stays {new}" if old == new else f"level {old} -> {new}"
