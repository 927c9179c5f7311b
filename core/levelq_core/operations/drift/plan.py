"""What there is to repair in a whole database, counted by kind, with examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from levelq_core.database.schema import PAIR, Schema, read
from levelq_core.domain.catalog import Catalog
from levelq_core.operations.dbcheck.spelling import names_outside
from levelq_core.operations.queries import Pair
from levelq_core.operations.readings.records import Reading

from . import table_repairs
from .ranges import START, PairRanges
from .repairs import Policy, Repair, repairs

SHOWN = 3  # examples of one kind

_COPIED = {"progress": "the progress's level", "license": "the license's level", "higher": "the higher level"}
_LEFT = {
    "unnamed": "left: no user or no specialization",
    "misspelt": "left: spelt otherwise; `levelq adopt` renames it",
    "unknown_name": "left: not in the catalog",
    "no_user": "left: the user does not exist, so no row can be made",
    "no_level": "left: that side has no level that can be copied",
}


class PlannedRepair(Reading):
    """One kind of fault: how many pairs or rows, what will be done, and the first of them.

    `kind`: "out_of_step", "no_license" or "no_progress" for pairs, "misspelt", "duplicates", "null_level" or
    "no_constraint" for a table, and "unnamed", "unknown_name", "no_user", "no_level" for what is left.
    """

    kind: str
    table: str | None
    number: int
    repaired: bool
    action: str
    examples: tuple[str, ...]


class RepairPlan(Reading):
    """All that was found. `pairs`: how many were compared. `source`: whose level is copied."""

    source: Policy
    pairs: int
    repairs: tuple[PlannedRepair, ...]

    @property
    def total(self) -> int:
        """How many pairs and rows will be repaired."""
        return sum(planned.number for planned in self.repairs if planned.repaired)

    @property
    def left(self) -> int:
        """How many will not."""
        return sum(planned.number for planned in self.repairs if not planned.repaired)


@dataclass
class _Counted:
    number: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.number += 1
        if len(self.examples) < SHOWN:
            self.examples.append(example)


class Planner:
    """Counts what there is to repair. `names`: only pairs of these specializations. Raises DBAPIError."""

    def __init__(self, engine: Engine, catalog: Catalog, source: Policy, names: Sequence[str] | None = None) -> None:
        self._engine, self._catalog, self._source, self._names = engine, catalog, source, names

    def plan(self, *, rows: bool = True) -> RepairPlan:
        """Compare both tables. `rows`: also look for faulty rows: misspelt, several of a pair, without a level.

        Raises SchemaError for tables that lack what only a person can decide.
        """
        found: list[PlannedRepair] = []
        with self._engine.connect() as connection:
            schema = read(connection).require(keys=False)
            if rows:
                found += _of_tables(connection, schema, self._catalog)
        merged = any(planned.kind in ("misspelt", "duplicates") for planned in found)
        pairs, counted = self._count(schema, merged=merged)
        if rows:
            found += self._outside(schema)
            counted.pop("unknown_name", None)
        found += (self._planned(kind, counted[kind]) for kind in (*_PAIRS, *_LEFT) if kind in counted)
        return RepairPlan(source=self._source, pairs=pairs, repairs=tuple(found))

    def differing(self, schema: Schema, *, merged: bool = False) -> Iterator[tuple[int, list[tuple[Pair, Repair]]]]:
        """Yield of each range how many pairs were compared, and those out of step, each with its repair."""
        ranges, position = PairRanges(schema, merged=merged), START
        while True:
            with self._engine.connect() as connection:
                found = ranges.read(connection, position)
                pairs = [pair for pair in found.differing if self._names is None or pair.specialization in self._names]
                reason = f"levelq: both sides at {_COPIED[self._source]}"
                decided = repairs(
                    connection, pairs, schema, self._catalog, self._source, reason=reason, spelling=not merged
                )
            yield found.pairs, list(zip(pairs, decided, strict=True))
            if found.next is None:
                return
            position = found.next

    def _count(self, schema: Schema, *, merged: bool) -> tuple[int, dict[str, _Counted]]:
        total, counted = 0, dict[str, _Counted]()
        for pairs, differing in self.differing(schema, merged=merged):
            total += pairs
            for pair, repair in differing:
                counted.setdefault(repair.kind or _kind_of(pair), _Counted()).add(_shown(pair))
        return total, counted

    def _planned(self, kind: str, counted: _Counted) -> PlannedRepair:
        copied = _COPIED[self._source]
        actions = {
            "out_of_step": f"set both to {copied}",
            "no_license": "make the license at the progress's level",
            "no_progress": "make the progress at the license's level, with totals of 0",
        }
        action = actions.get(kind) or _LEFT[kind]
        examples = tuple(counted.examples)
        return PlannedRepair(
            kind=kind, table=None, number=counted.number, repaired=kind in actions, action=action, examples=examples
        )

    def _outside(self, schema: Schema) -> Iterator[PlannedRepair]:
        with self._engine.connect() as connection:
            outside = names_outside(connection, list(PAIR), self._catalog)
        if outside:
            rows = {name: sum(by_table.values()) for name, by_table in outside.items()}
            yield PlannedRepair(
                kind="unknown_name",
                table=None,
                number=sum(rows.values()),
                repaired=False,
                action=_LEFT["unknown_name"],
                examples=tuple(f"{name!r} ({number:,} rows)" for name, number in list(rows.items())[:SHOWN]),
            )


_PAIRS = ("out_of_step", "no_license", "no_progress")


def _kind_of(pair: Pair) -> str:
    if pair.license_level is None:
        return "no_license"
    return "no_progress" if pair.progress_level is None else "out_of_step"


def _shown(pair: Pair) -> str:
    levels = ("none" if level is None else f"{level}" for level in (pair.progress_level, pair.license_level))
    return f"user {pair.user_id} {pair.specialization} ({', '.join(levels)})"


def _of_tables(connection: Connection, schema: Schema, catalog: Catalog) -> Iterable[PlannedRepair]:
    for repair in table_repairs.find(connection, schema, catalog):
        yield PlannedRepair(
            kind=repair.kind,
            table=repair.table,
            number=repair.rows,
            repaired=True,
            action=repair.action,
            examples=tuple(faulty.shown for faulty in repair.faulty[:SHOWN]),
        )
    for table, statements in table_repairs.index_statements(connection, schema).items():
        possible = not statements[-1].startswith("--")
        how = "writers of the partitioned table wait" if table_repairs.blocks_writers(statements) else "no writer waits"
        action = f"make it; {how} meanwhile" if possible else f"left: {statements[-1].removeprefix('-- ')}"
        yield PlannedRepair(
            kind="no_constraint", table=table, number=1, repaired=possible, action=action, examples=statements[-1:]
        )
