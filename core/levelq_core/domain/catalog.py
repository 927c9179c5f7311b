"""The catalog: which specializations exist and what each of their levels requires. Data, not code."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

from levelq_core.errors import CatalogError

from .commands import MAX_USER_ID


class Requirement(NamedTuple):
    """The totals that must all be reached for a level."""

    total_xp: int = 0
    completed_sessions: int = 0
    completed_projects: int = 0
    theory_hours: int = 0
    practice_hours: int = 0


@dataclass(frozen=True)
class Track:
    """One specialization: its levels, first to max_level, and whether it counts theory and practice hours."""

    name: str
    levels: tuple[Requirement, ...]
    tracks_hours: bool = False

    @property
    def max_level(self) -> int:
        """The highest level there is."""
        return len(self.levels)

    @cached_property
    def _demanding(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The totals that some level requires: (index in Requirement, its threshold per level)."""
        columns = tuple(zip(*self.levels, strict=True))
        return tuple((i, column) for i, column in enumerate(columns) if any(column))

    def level_for(self, totals: tuple[int, int, int, int, int]) -> int:
        """The highest level whose requirements these totals meet, at least 1.

        Requirements never fall from level to level, so each total reaches a level by bisection; the least of these
        is the answer.
        """
        demanding = self._demanding
        if len(demanding) == 1:  # nearly always: experience alone
            ((i, column),) = demanding
            return bisect_right(column, totals[i])
        return min((bisect_right(column, totals[i]) for i, column in demanding), default=self.max_level)


class Catalog(Mapping[str, Track]):
    """Specialization name (upper case) to Track. Immutable."""

    def __init__(self, tracks: Mapping[str, Track]) -> None:
        self._tracks = dict(tracks)

    def __getitem__(self, name: str) -> Track:
        return self._tracks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    @classmethod
    def default(cls) -> Self:
        """PLAYER and COACH with 8 levels, INTERNSHIP with 3; COACH counts hours."""
        eight = (0, 1000, 2500, 5000, 10000, 20000, 40000, 80000)
        three = (0, 5000, 15000)
        return cls(
            {
                name: Track(name, tuple(Requirement(total_xp=xp) for xp in steps), name == "COACH")
                for name, steps in (("PLAYER", eight), ("COACH", eight), ("INTERNSHIP", three))
            }
        )

    @classmethod
    def load(cls, path: str | Path | None) -> Self:
        """Read a TOML catalog, or give the default for None. Raises CatalogError that names the fault."""
        if path is None:
            return cls.default()
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise CatalogError(f"catalog {path}: cannot be read: {error.strerror}", path=str(path)) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise CatalogError(f"catalog {path}: not valid TOML: {error}", path=str(path)) from error
        try:
            return cls.parse(document)
        except CatalogError as error:
            own = vars(error) | {"path": str(path), "reasons": ()}
            raise CatalogError(f"catalog {path}: {error}", **own) from None

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Make a catalog of a parsed TOML document: one table per specialization, as docs/reference shows."""
        if not document:
            raise CatalogError("expected at least one specialization, got an empty document")
        tracks: dict[str, Track] = {}
        for written, table in document.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", written):
                message = f"{written!r}: expected a name of letters, digits and _, at most 32"
                raise CatalogError(message, specialization=written)
            name = written.upper()
            if name in tracks:
                message = f"{written!r}: defined twice (names fold to upper case)"
                raise CatalogError(message, specialization=name)
            tracks[name] = _track(name, table)
        return cls(tracks)


def _track(name: str, table: object) -> Track:
    if not isinstance(table, Mapping):
        raise _wrong(name, f"expected a table, got {table!r}", value=table)
    unknown = set(table) - {"levels", "tracks_hours"}
    if unknown:
        raise _wrong(name, f"expected levels and tracks_hours, got {sorted(unknown)[0]!r} too")
    tracks_hours = table.get("tracks_hours", False)
    if not isinstance(tracks_hours, bool):
        raise _wrong(name, f"expected true or false, got {tracks_hours!r}", field="tracks_hours", value=tracks_hours)
    rows = table.get("levels")
    if not isinstance(rows, list) or not rows:
        raise _wrong(name, f"expected a list with one entry per level, got {rows!r}", field="levels", value=rows)
    levels = tuple(_requirement(name, n, row) for n, row in enumerate(rows, 1))
    _check_levels(name, levels, tracks_hours)
    return Track(name, levels, tracks_hours)


def _requirement(name: str, level: int, row: object) -> Requirement:
    fields: dict[str, Any] = {"total_xp": row} if not isinstance(row, Mapping) else dict(row)
    for field, value in fields.items():
        if field not in Requirement._fields:
            expected = ", ".join(Requirement._fields)
            raise _wrong(name, f"expected {expected}, got {field!r}", level=level)
        if type(value) is not int or not 0 <= value <= MAX_USER_ID:
            what = f"expected a whole number from 0 to 2^63-1, got {value!r}"
            raise _wrong(name, what, level=level, field=field, value=value)
    return Requirement(**fields)


def _check_levels(name: str, levels: tuple[Requirement, ...], tracks_hours: bool) -> None:
    if any(levels[0]):
        found = ", ".join(f"{field} {value}" for field, value in levels[0]._asdict().items() if value)
        raise _wrong(name, f"expected no requirements, got {found}", level=1)
    for n, (lower, higher) in enumerate(pairwise(levels), 2):
        for field, less, more in zip(Requirement._fields, lower, higher, strict=True):
            if more < less:
                what = f"expected at least {less} as the level before, got {more}"
                raise _wrong(name, what, level=n, field=field, value=more)
    if not tracks_hours and (levels[-1].theory_hours or levels[-1].practice_hours):
        raise _wrong(name, "requires hours, but tracks_hours is not true")


def _wrong(name: str, what: str, *, level: int | None = None, field: str = "", value: object = None) -> CatalogError:
    where = [name, *([f"level {level}"] if level else []), *([field] if field else [])]
    return CatalogError(": ".join([*where, what]), specialization=name, level=level, field=field, value=value)
