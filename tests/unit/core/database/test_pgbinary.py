"""Our binary arrays are those of PostgreSQL: psycopg's own loaders read them back."""

import struct
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import Format

from levelq_core.database.pgbinary import DUMPERS, NULL, bigints, copy_data, eight_bigints, field, texts, uuids
from levelq_core.domain.rules import FIELDS, State

BIGINTS, TEXTS, UUIDS = 1016, 1009, 2951

_words = st.text(st.characters(codec="utf-8"), max_size=50)


def loaded(oid: int, raw: bytes) -> Any:
    return Transformer().get_loader(oid, Format.BINARY).load(raw)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers(values: list[int]) -> None:
    assert loaded(BIGINTS, bigints(values)) == values


@given(st.lists(_words))
def test_texts(values: list[str]) -> None:
    assert loaded(TEXTS, texts(iter(values))) == values


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_uuids(values: list[bytes]) -> None:
    assert loaded(UUIDS, uuids(values)) == [UUID(bytes=value) for value in values]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(struct.error):
        bigints([2**63])
    with pytest.raises(UnicodeEncodeError):
        texts(["\ud800"])


@pytest.mark.parametrize(
    ("array", "oid"), [(bigints([1]), BIGINTS), (texts(["a"]), TEXTS), (uuids([bytes(16)]), UUIDS)]
)
def test_psycopg_sends_them_as_they_are(array: bytes, oid: int) -> None:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(type(array), DUMPERS[type(array)])
    dumper = Transformer(adapters).get_dumper(array, PyFormat.BINARY)
    assert (dumper.oid, dumper.format) == (oid, Format.BINARY)
    assert dumper.dump(array) == array


def test_a_copy_field_is_its_length_and_bytes() -> None:
    assert field(b"abc") == b"\0\0\0\3abc"
    assert field(b"") == b"\0\0\0\0"
    assert field(None) == NULL == b"\xff\xff\xff\xff"
    assert copy_data([b"row"]) == b"PGCOPY\n\xff\r\n\0" + b"\0\0\0\0" * 2 + b"row" + b"\xff\xff"


@given(st.tuples(*[st.integers(0, 2**63 - 1)] * 8))
def test_a_state_in_the_ledger_is_a_bigint_array(state: State) -> None:
    raw = eight_bigints(state)
    length, array = int.from_bytes(raw[:4], "big"), raw[4:]
    assert len(array) == length
    assert loaded(BIGINTS, array) == list(state)
    assert len(state) == len(FIELDS)
    assert eight_bigints(None) == NULL
