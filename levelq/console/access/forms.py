"""Forms that change something: where they come from, and what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .csrf import check_csrf

MOST_BYTES = 64 * 1024
MOST_FIELDS = 200
SECONDS = 10.0  # for all of a form to arrive


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a posted form, which comes from a page of this console.

    Raises HTTPException 400, 403 (no token of a page of this console), 408 (too slow), 413 or 415.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "the form: expected application/x-www-form-urlencoded")
    try:
        async with asyncio.timeout(SECONDS):
            body = await _body(request)
    except TimeoutError:
        raise HTTPException(408, f"the form: expected all of it within {SECONDS:g} s") from None
    try:
        form = dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise HTTPException(400, f"the form: expected application/x-www-form-urlencoded: {error}") from None
    check_csrf(request, form)
    return form


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"the form: expected at most {MOST_BYTES} bytes")
    return body
