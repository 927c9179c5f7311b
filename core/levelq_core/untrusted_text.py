"""Text of other programs, made safe to show: in a terminal, a log and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

MOST_SHOWN = 80  # characters of one name or value in a message


def printable(text: str | bytes, most: int | None = None) -> str:
    """The text on one line, control characters escaped, cut after `most` characters with "...".

    Escaped is what Python calls not printable: C0 and C1, bidirectional and zero-width characters, line separators,
    lone surrogates. Bytes are decoded as UTF-8; invalid ones become the replacement character.
    """
    part = text if most is None else text[: 4 * most + 4]  # a character has at most four bytes
    shown = part.decode(errors="replace") if isinstance(part, bytes) else part
    cut = most is not None and (len(shown) > most or len(part) < len(text))
    shown = shown[:most]
    if not shown.isprintable():
        safe = (c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in shown)
        shown = "".join(safe)
    return shown + "..." * cut


def quoted(raw: object) -> str:
    """A name or value from Redis in quotes, short enough for a message."""
    return f"'{printable(raw, MOST_SHOWN)}'" if isinstance(raw, str | bytes) else repr(raw)[:MOST_SHOWN]


def to_json(value: Any) -> str:
    """A record, or plain values, as JSON on one line that is safe in a terminal: ASCII, the rest as \\u escapes.

    A program that reads it gets the text as it is. What JSON does not know, such as a time or an id, becomes its text.
    """
    text = value.model_dump_json() if hasattr(value, "model_dump_json") else json.dumps(value, default=_plain)
    return re.sub("[^ -~]", _escaped, text)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f")  # DEL is the one that json leaves
