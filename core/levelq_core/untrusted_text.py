"""Text that others wrote, made fit for a terminal and a log: nothing in it is obeyed, and it is not long."""

from __future__ import annotations

MOST_SHOWN = 80  # characters of one name or value in a message


def printable(text: str | bytes, most: int | None = None) -> str:
    """The text on one line, with control characters as escapes; of more than `most` characters the first, and "...".

    Bytes are read as UTF-8; what is not UTF-8 is shown as the replacement character.
    """
    part = text if most is None else text[: 4 * most + 4]  # a character has at most four bytes
    shown = part.decode(errors="replace") if isinstance(part, bytes) else part
    cut = most is not None and (len(shown) > most or len(part) < len(text))
    shown = "".join(c if c.isprintable() else _escaped(c) for c in shown[:most])
    return f"{shown}..." if cut else shown


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
