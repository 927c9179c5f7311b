"""What restricts a list: fields of a page's URL, read and checked, and written again for a link or a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from levelq.console.whole_numbers import MOST_ROW_ID, whole_number
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.errors import ConfigurationError, InvalidArgument
from levelq_core.operations.readings.selection import Selection
from levelq_core.operations.written_times import time_of
from levelq_core.untrusted_text import quoted

PAGE_ROWS = 50
FIELDS = ("since", "until", "user", "specialization", "error", "reason", "action")
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Filter:
    """What a URL asks for. `given`: its fields as they stand there, without empty ones; None where one is not given.

    `before`: the id of the last row of the page before this one.
    """

    given: Mapping[str, str]
    since: datetime | None = None
    until: datetime | None = None
    user: int | None = None
    before: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Filter:
        """Read it. Raises InvalidArgument or ConfigurationError, which name the field."""
        given = {name: text for name in FIELDS if (text := values.get(name, "").strip())}
        for name, text in given.items():
            if len(text) > _MOST_CHARACTERS or not text.isprintable():
                raise _refused(name, f"at most {_MOST_CHARACTERS} printable characters", text)
        found = cls(
            given,
            since=time_of("since", given["since"]) if "since" in given else None,
            until=time_of("until", given["until"]) if "until" in given else None,
            user=number_of("user", given.get("user", ""), MAX_USER_ID),
            before=number_of("before", values.get("before", ""), MOST_ROW_ID),
        )
        if found.since is not None and found.until is not None and found.since >= found.until:
            raise _refused("since", "a time before `until`", given["since"])
        found.selection()
        return found

    @property
    def specialization(self) -> str | None:
        """In upper case, as rows have it."""
        return self.given["specialization"].upper() if "specialization" in self.given else None

    def selection(self, ids: tuple[Any, ...] = ()) -> Selection:
        """The rows that it asks for, or those with these ids. Raises InvalidArgument for an unknown error."""
        if ids:
            return Selection(ids)
        error, reason = self.given.get("error"), self.given.get("reason")
        return Selection((), self.user, self.specialization, error, reason, self.since, self.until)

    def url(self, path: str, **more: object) -> str:
        """A link with its fields; `more` may replace some, None leaves one out."""
        fields = {name: value for name, value in {**self.given, **more}.items() if value is not None}
        return f"{path}?{urlencode(fields)}" if fields else path

    def options(self) -> list[str]:
        """The options of a command line that asks for the same."""
        return [word for name, text in self.given.items() for word in (f"--{name}", text)]


def filter_of(request: Request) -> Filter:
    """The filter of a page's URL. Raises HTTPException 400."""
    try:
        return Filter.of(request.query_params)
    except (InvalidArgument, ConfigurationError) as error:
        raise HTTPException(400, str(error)) from None


def number_of(name: str, text: str, most: int) -> int | None:
    """A whole number from 1 on, None for an empty text. Raises InvalidArgument."""
    text = text.strip()
    number = whole_number(text, most)
    if text and number is None:
        raise _refused(name, f"a whole number from 1 to {most}", text)
    return number


def _refused(name: str, expected: str, got: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: expected {expected}, got {quoted(got)}", field=name, value=got)
