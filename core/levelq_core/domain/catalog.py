"""The catalog: which specializations exist and what each of their levels requires. Data, not code."""

from __future__ import annotations

import json
import re
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
    """Specialization name (upper case) to Track. Immutable. See `of` and `from_json`."""

    def __init__(self, tracks: Mapping[str, Track]) -> None:
        self._tracks = dict(tracks)

    def __getitem__(self, name: str) -> Track:
        return self._tracks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    def __hash__(self) -> int:
        return hash(frozenset(self._tracks.items()))

    def __repr__(self) -> str:
        return f"Catalog({', '.join(self)})"

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
    def of(cls, specializations: Mapping[str, Any]) -> Self:
        """Make a catalog of Python values: of constants, of rows of a table, of a parsed file.

            Catalog.of({"PLAYER": [0, 1000], "COACH": {"levels": [0, {"theory_hours": 10}], "tracks_hours": True}})

        Each specialization has a list with one entry per level, or a mapping with `levels` and `tracks_hours`. A level
        is a number, the total experience that it requires, or a mapping with fields of Requirement.

        Raises CatalogError, which names the specialization, the level, the value and what was expected.
        """
        if not isinstance(specializations, Mapping):
            raise CatalogError(f"expected an object with one entry per specialization, got {specializations!r}")
        if not specializations:
            raise CatalogError("expected at least one specialization, got an empty document")
        tracks: dict[str, Track] = {}
        for written, table in specializations.items():
            if not isinstance(written, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", written):
                message = f"{written!r}: expected a name of letters, digits and _, at most 32"
                raise CatalogError(message, specialization=str(written))
            name = written.upper()
            if name in tracks:
                message = f"{written!r}: defined twice (names fold to upper case)"
                raise CatalogError(message, specialization=name)
            tracks[name] = _track(name, table)
        return cls(tracks)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a JSON object of what `of` takes. Raises CatalogError as `of`."""
        try:
            document = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise CatalogError(f"not valid JSON: {error}") from error
        return cls.of(document)

    def to_json(self) -> str:
        """The catalog as JSON text, which `from_json` reads."""
        return json.dumps({name: _plain_track(track) for name, track in self.items()}, separators=(",", ":"))

    @classmethod
    def load(cls, source: Catalog | str | Path | None) -> Catalog:
        """The catalog in a file: JSON if its name ends in .json, else TOML. Raises CatalogError that names the fault.

        A text that begins with { is JSON itself, a Catalog is returned as it is, and None gives the default.
        """
        if source is None:
            return cls.default()
        if isinstance(source, Catalog):
            return source
        is_text = isinstance(source, str) and is_json(source)
        where = "catalog" if is_text else f"catalog {source}"
        try:
            return cls.from_json(str(source)) if is_text else _read(Path(source))
        except CatalogError as error:
            path = "" if is_text else str(source)
            own = vars(error) | {"path": path, "reasons": ()}
            raise CatalogError(f"{where}: {error}", **own) from error.__cause__


def is_json(text: str) -> bool:
    """Whether this is a catalog as JSON, not the path of one."""
    return text.lstrip().startswith("{")


def _read(path: Path) -> Catalog:
    import tomllib  # noqa: PLC0415 - few read a catalog of their own

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return Catalog.from_json(text)
        return Catalog.of(tomllib.loads(text))
    except OSError as error:
        raise CatalogError(f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise CatalogError(f"not valid {kind}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises CatalogError for a name that it has twice, of which json.loads keeps only the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CatalogError(f"{twice!r}: defined twice", specialization=twice)
    return found


def _plain_track(track: Track) -> Any:
    levels = [_plain_level(level) for level in track.levels]
    return {"levels": levels, "tracks_hours": True} if track.tracks_hours else levels


def _plain_level(level: Requirement) -> int | dict[str, int]:
    return {name: value for name, value in level._asdict().items() if value} if any(level[1:]) else level.total_xp


def _track(name: str, table: object) -> Track:
    if isinstance(table, list | tuple):
        table = {"levels": table}
    if not isinstance(table, Mapping):
        raise _wrong(name, f"expected a list of levels, or a table, got {table!r}", value=table)
    unknown = set(table) - {"levels", "tracks_hours"}
    if unknown:
        raise _wrong(name, f"expected levels and tracks_hours, got {sorted(unknown)[0]!r} too")
    tracks_hours = table.get("tracks_hours", False)
    if not isinstance(tracks_hours, bool):
        raise _wrong(name, f"expected true or false, got {tracks_hours!r}", field="tracks_hours", value=tracks_hours)
    rows = table.get("levels")
    if not isinstance(rows, list | tuple) or not rows:
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
