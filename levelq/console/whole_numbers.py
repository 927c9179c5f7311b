"""Whole numbers in URLs and forms."""

from __future__ import annotations

MOST_ROW_ID = 2**63 - 1  # of a bigint column


def whole_number(text: str, most: int) -> int | None:
    """The number from 1 to `most` that the text is, in ASCII digits; None if it is none."""
    digits = text.isascii() and text.isdecimal() and len(text) < 20  # int() would read any length, and other scripts
    return int(text) if digits and 1 <= int(text) <= most else None
