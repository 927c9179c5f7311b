"""Forms that change something: where they come from, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_BYTES = 64 * 1024
MOST_FIELDS = 200


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a posted form. Raises HTTPException 400, 403 (not from a page of this console) or 413."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"the form: expected at most {MOST_BYTES} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise HTTPException(400, f"the form: expected application/x-www-form-urlencoded: {error}") from None
