"""Signs what a browser keeps for the console, so that only this console can have made it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from itsdangerous import BadData, URLSafeTimedSerializer


class Signatures:
    """The key is made when the console starts and is kept nowhere: a restart makes all that was signed void."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, purpose: str, *values: str) -> str:
        """The values, signed for this purpose alone, for a form or a cookie."""
        return str(self._serializer(purpose).dumps(values))

    def read(self, purpose: str, signed: str, seconds: int) -> Sequence[str] | None:
        """The values; None if they were not signed here, for another purpose, or longer ago than this."""
        try:
            return tuple(self._serializer(purpose).loads(signed, max_age=seconds))
        except BadData:
            return None

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._key, salt=purpose, signer_kwargs={"digest_method": hashlib.sha256})
