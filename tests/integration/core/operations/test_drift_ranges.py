"""Pairs compared range by range: the same as all at once, whichever index there is."""

import random

import pytest
from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import Schema, read
from levelq_core.operations.drift.ranges import START, PairRanges
from levelq_core.operations.queries import Pair, out_of_step
from tests.support.db_check import execute

TABLES = (
    ("specialization_progress", "student_id, specialization_id"),
    ("user_licenses", "user_id, specialization_type"),
)
INDEXES = {"by user": "{user}, {name}", "by name": "{name}, {user}", "none": None}


@pytest.mark.parametrize("index", INDEXES)
def test_ranges_find_what_a_comparison_of_all_finds(own_engine: Engine, index: str) -> None:
    chance = random.Random(index)
    columns = INDEXES[index]
    for table, key in TABLES:
        user, name = key.split(", ")
        if index != "by user":
            execute(own_engine, f"ALTER TABLE {table} DROP CONSTRAINT {table}_pair_key")
        if columns and index != "by user":
            execute(own_engine, f"CREATE UNIQUE INDEX ON {table} ({columns.format(user=user, name=name)})")
        rows = [
            f"({number - 8}, '{spelt}', {chance.randint(1, 2)})"
            for number in range(60)
            for spelt in ("PLAYER", "COACH", "player")
            if chance.random() < 0.8
        ]
        execute(own_engine, f"INSERT INTO {table} ({key}, current_level) VALUES {', '.join(rows)}")
    with own_engine.connect() as connection:
        wanted = list(out_of_step(connection))
        pairs = connection.execute(
            text("""
            SELECT count(*) FROM specialization_progress FULL JOIN user_licenses
            ON student_id = user_id AND specialization_id = specialization_type
        """)
        ).scalar_one()
        schema = read(connection)
        for size in (1, 7, 1000):
            assert _walked(connection, schema, size) == (pairs, sorted(wanted, key=lambda pair: pair[:2])), size
        _, merged = _walked(connection, schema, 7, merged=True)
    assert {pair.specialization for pair in merged} == {"PLAYER", "COACH"}
    assert len({pair[:2] for pair in merged}) == len(merged)


def _walked(connection: Connection, schema: Schema, size: int, *, merged: bool = False) -> tuple[int, list[Pair]]:
    ranges, position = PairRanges(schema, merged=merged), START
    total, found = 0, list[Pair]()
    while True:
        one = ranges.read(connection, position, size)
        total, found = total + one.pairs, found + one.differing
        if one.next is None:
            return total, sorted(found, key=lambda pair: pair[:2])
        position = one.next
