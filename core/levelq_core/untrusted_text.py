"""Text of other programs, made safe for a terminal and a log: no control characters, and a bounded length."""

from __future__ import annotations

MOST_SHOWN = 80  # characters of one name or value in a message


def printable(text: str | bytes, most: int | None = None) -> str:
    """The text on one line, control characters escaped, cut after `most` characters with "...".

    Bytes are decoded as UTF-8; invalid ones become the replacement character.
    """
    part = text if most is None else text[: 4 * most + 4]  # a character has at most four bytes
    shown = part.decode(errors="replace") if isinstance(part, bytes) else part
    cut = most is not None and (len(shown) > most or len(part) < len(text))
    safe = (c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in shown[:most])
    return "".join(safe) + "..." * cut


def quoted(raw: object) -> str:
    """A name or value from Redis in quotes, short enough for a message."""
    return f"'{printable(raw, MOST_SHOWN)}'" if isinstance(raw, str | bytes) else repr(raw)[:MOST_SHOWN]
