"""The reference model: section 4 of the design in plain dictionaries, written without a look at the code under test.

Give it commands in their order of effect; it predicts every outcome and every row of the three tables.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels

LaneKey = tuple[int, str]
Row = dict[str, Any]
Prediction = dict[str, Any]

LEVELS = ("progress_level", "license_level", "max_achieved_level")
TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours")

# The document a catalog file would hold; both the code under test and the model read it, each in its own way.
DEFAULT_CATALOG: dict[str, Any] = {
    "PLAYER": {"levels": [0, 1000, 2500, 5000, 10000, 20000, 40000, 80000]},
    "COACH": {"levels": [0, 1000, 2500, 5000, 10000, 20000, 40000, 80000], "tracks_hours": True},
    "INTERNSHIP": {"levels": [0, 5000, 15000]},
}


@dataclass(frozen=True)
class Columns:
    """What the columns of a database hold at most; `users` are those a foreign key demands, None for any."""

    total: int = 2**63 - 1
    user_id: int = 2**63 - 1
    advanced_by: int = 2**63 - 1
    reason: int = 500
    specialization: int = 32
    users: Collection[int] | None = None


OWN = Columns()
APPLICATION = Columns(2**31 - 1, 2**31 - 1, 2**31 - 1, reason=255, specialization=20, users=range(1, 2001))


@dataclass
class Model:
    """Three tables and a ledger as dictionaries."""

    columns: Columns = OWN
    catalog: Mapping[str, Any] = field(default_factory=lambda: DEFAULT_CATALOG)
    progress: dict[LaneKey, Row] = field(default_factory=dict)
    licenses: dict[LaneKey, Row] = field(default_factory=dict)
    progressions: list[Row] = field(default_factory=list)
    ledger: dict[UUID, Row] = field(default_factory=dict)

    def apply(self, command: Command) -> Prediction:
        """Decide one command and change the tables accordingly."""
        content = (type(command).__name__, command.model_dump())
        earlier = self.ledger.get(command.command_id)
        if earlier is not None and earlier["content"] == content:
            return {**earlier["outcome"], "duplicate": True}
        if earlier is not None:
            return _rejected("conflict", None)
        outcome = self._decide(command)
        self.ledger[command.command_id] = {"content": content, "command": command, "outcome": outcome}
        return outcome

    def cancel(self, command: Command) -> None:
        """Reject a command that was not decided before, for good."""
        if command.command_id not in self.ledger:
            content = (type(command).__name__, command.model_dump())
            outcome = _rejected("cancelled", None)
            self.ledger[command.command_id] = {"content": content, "command": command, "outcome": outcome}

    def _decide(self, command: Command) -> Prediction:
        lane = (command.user_id, command.specialization)
        if command.specialization not in self.catalog:
            return _rejected("validation_error", None)
        if command.user_id > self.columns.user_id or len(command.specialization) > self.columns.specialization:
            return _rejected("validation_error", None)
        found = self._found(lane)
        if len(command.reason) > self.columns.reason or (command.advanced_by or 0) > self.columns.advanced_by:
            return _rejected("validation_error", found)
        if isinstance(command, SyncLevels):
            return self._sync(lane, command, found)
        return self._change(lane, command, found)

    def _found(self, lane: LaneKey) -> Row | None:
        """Both rows as one dictionary, a level of 0 for a missing row; None if there is neither."""
        progress, license_ = self.progress.get(lane), self.licenses.get(lane)
        if progress is None and license_ is None:
            return None
        return {
            "progress_level": progress["level"] if progress else 0,
            "license_level": license_["level"] if license_ else 0,
            "max_achieved_level": license_["highest"] if license_ else 0,
            **{name: progress[name] if progress else 0 for name in TOTALS},
        }

    def _sync(self, lane: LaneKey, command: SyncLevels, found: Row | None) -> Prediction:
        level = 0 if found is None else found[f"{command.source}_level"]
        if found is None or level == 0:
            return _rejected("validation_error", found)
        after = {**found, "progress_level": level, "license_level": level}
        after["max_achieved_level"] = max(found["max_achieved_level"], level)
        from_level = found["license_level"] or level  # a license that is created has not changed
        return self._write(lane, command, found, after, from_level)

    def _change(self, lane: LaneKey, command: LevelUp | SetLevel | Adjust | Reset, found: Row | None) -> Prediction:
        track = self.catalog[lane[1]]
        given = _numbers(command)
        if (given["theory_hours"] or given["practice_hours"]) and not track.get("tracks_hours"):
            return _rejected("validation_error", found)
        if isinstance(command, SetLevel) and (command.new_level < 1 or command.new_level > len(track["levels"])):
            return _rejected("validation_error", found)
        if isinstance(command, Reset) and command.level != "earned" and not 1 <= command.level <= len(track["levels"]):
            return _rejected("validation_error", found)
        before = _with_missing_rows(found)
        totals = given if isinstance(command, Reset) else {name: before[name] + given[name] for name in TOTALS}
        if any(total < 0 or total > self.columns.total for total in totals.values()):
            return _rejected("validation_error", found)
        if self.columns.users is not None and command.user_id not in self.columns.users:
            return _rejected("database_error", None)
        level = self._level(command, before, _earned(track["levels"], totals))
        after = {**totals, "progress_level": level, "license_level": level}
        after["max_achieved_level"] = max(before["max_achieved_level"], level)
        return self._write(lane, command, before, after, before["license_level"])

    def _level(self, command: LevelUp | SetLevel | Adjust | Reset, before: Row, earned: int) -> int:
        if isinstance(command, SetLevel):
            return command.new_level
        higher: int = max(before["progress_level"], before["license_level"])
        if isinstance(command, LevelUp):
            return max(higher, earned)
        if command.level == "earned":
            return earned
        return higher if command.level == "keep" else command.level

    def _write(self, lane: LaneKey, command: Any, before: Row, after: Row, from_level: int) -> Prediction:
        level = after["license_level"]
        self.progress[lane] = {"level": level, **{name: after[name] for name in TOTALS}}
        self.licenses[lane] = {"level": level, "highest": after["max_achieved_level"]}
        if from_level != level:
            met = {name: after[name] for name in TOTALS}
            author = {"by": command.advanced_by, "why": command.reason}
            self.progressions.append({"lane": lane, "from": from_level, "to": level, **author, "met": met})
        return {
            "status": "applied",
            "error": None,
            "duplicate": False,
            "from_level": from_level,
            "to_level": level,
            "before": before,
            "after": after,
        }


def _rejected(error: str, found: Row | None) -> Prediction:
    """Nothing changed: what was found is what is left."""
    levels = {"from_level": None, "to_level": None}
    return {"status": "rejected", "error": error, "duplicate": False, **levels, "before": found, "after": found}


def _numbers(command: LevelUp | SetLevel | Adjust | Reset) -> dict[str, int]:
    if isinstance(command, Reset):
        return {name: getattr(command, name) for name in TOTALS}
    if isinstance(command, LevelUp):
        return {
            "total_xp": command.xp_gained,
            "completed_sessions": command.sessions_completed,
            "completed_projects": command.projects_completed,
            "theory_hours": command.theory_hours,
            "practice_hours": command.practice_hours,
        }
    return {
        "total_xp": command.xp_change,
        "completed_sessions": command.sessions_change,
        "completed_projects": command.projects_change,
        "theory_hours": command.theory_hours_change,
        "practice_hours": command.practice_hours_change,
    }


def _with_missing_rows(found: Row | None) -> Row:
    """What a command that makes missing rows starts from."""
    if found is None:
        return {"progress_level": 1, "license_level": 1, "max_achieved_level": 1, **dict.fromkeys(TOTALS, 0)}
    if found["progress_level"] == 0:
        return {**found, "progress_level": found["license_level"]}
    if found["license_level"] == 0:
        level = found["progress_level"]
        return {**found, "license_level": level, "max_achieved_level": level}
    return found


def _earned(levels: list[Any], totals: Mapping[str, int]) -> int:
    """The highest level whose requirements are all met."""
    best = 0
    for number, level in enumerate(levels, 1):
        requirements = level if isinstance(level, dict) else {"total_xp": level}
        if all(totals[name] >= least for name, least in requirements.items()):
            best = number
    return best
