"""Arrays and COPY rows in PostgreSQL's binary format, built in one pass each.

psycopg's own dumpers visit every element, which takes too long for the arrays of a batch. And they send a list of small
numbers as int2[], the next as int4[]: each mix of types would be prepared as a statement of its own. The layouts are
those of array_recv (src/backend/utils/adt/arrayfuncs.c) and of COPY BINARY (the COPY page of PostgreSQL's manual).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct, pack

from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

NULL = b"\xff\xff\xff\xff"  # a field of a COPY row
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER = b"\xff\xff"
_EIGHT_BIGINTS = Struct(">iiiIii" + "iq" * 8)
_ARRAY = Struct(">iiIii")  # dimensions, has nulls, element oid, length, lower bound
_BIGINT_OID, _TEXT_OID, _TID_OID, _UUID_OID = 20, 25, 27, 2950


class BigintArray(bytes):
    """An encoded bigint[]."""


class TextArray(bytes):
    """An encoded text[]."""


class TidArray(bytes):
    """An encoded tid[]."""


class UuidArray(bytes):
    """An encoded uuid[]."""


def bigints(values: Sequence[int]) -> BigintArray:
    """Encode integers of 64 bits."""
    n = len(values)
    flat = [8] * (2 * n)
    flat[1::2] = values
    return BigintArray(_ARRAY.pack(1, 0, _BIGINT_OID, n, 1) + pack(">" + "iq" * n, *flat))


def texts(values: Iterable[str]) -> TextArray:
    """Encode strings. Raises UnicodeEncodeError for what UTF-8 cannot hold."""
    encoded: dict[str, bytes] = {}  # most of a batch's specializations and reasons are the same
    parts = [encoded.get(value) or encoded.setdefault(value, field(value.encode())) for value in values]
    return TextArray(_ARRAY.pack(1, 0, _TEXT_OID, len(parts), 1) + b"".join(parts))


def uuids(values: Sequence[bytes]) -> UuidArray:
    """Encode ids of 16 bytes each."""
    return UuidArray(_fixed(values, _UUID_OID, 16))


def tids(values: Sequence[bytes]) -> TidArray:
    """Encode ctids, each of 6 bytes as the server sends it."""
    return TidArray(_fixed(values, _TID_OID, 6))


def _fixed(values: Sequence[bytes], oid: int, size: int) -> bytes:
    prefix = size.to_bytes(4, "big")
    body = prefix + prefix.join(values) if values else b""
    return _ARRAY.pack(1, 0, oid, len(values), 1) + body


def field(raw: bytes | None) -> bytes:
    """One field of a COPY row."""
    return NULL if raw is None else len(raw).to_bytes(4, "big") + raw


def eight_bigints(values: Sequence[int] | None) -> bytes:
    """A field of a COPY row: a bigint[8], or NULL."""
    if values is None:
        return NULL
    a, b, c, d, e, f, g, h = values
    return _EIGHT_BIGINTS.pack(116, 1, 0, _BIGINT_OID, 8, 1, 8, a, 8, b, 8, c, 8, d, 8, e, 8, f, 8, g, 8, h)


def copy_data(rows: Iterable[bytes]) -> bytes:
    """What COPY FROM STDIN takes, from packed rows."""
    return b"".join((_COPY_HEADER, *rows, _COPY_TRAILER))


class _AsIs(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> Buffer | None:
        return obj


# Registered on each cursor that is given such arrays; see cursors.py.
DUMPERS: dict[type[bytes], type[Dumper]] = {
    kind: type(f"{kind.__name__}Dumper", (_AsIs,), {"oid": array_oid})
    for kind, array_oid in ((BigintArray, 1016), (TextArray, 1009), (TidArray, 1010), (UuidArray, 2951))
}
