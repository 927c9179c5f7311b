"""Pushes under way to one server or several, without the input and output: threads and asyncio share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.cluster import REDIRECTIONS
from levelq_core.redis_client.pool import RedisCommand

from .script_files import Call


class PushBatch:
    """What is to be sent yet, and what was answered to the rest."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.replies: list[Any] = [None] * len(calls)
        self.asked: list[list[Any]] = []
        self.left: list[int] = list(range(len(calls)))
        self.moved: MovedError | None = None
        self._calls = calls
        self._redirections = REDIRECTIONS

    def start(self) -> list[int]:
        """The places of the calls that a round is to send."""
        left, self.left, self.moved = self.left, [], None
        self._redirections -= 1
        return left

    def key(self, place: int) -> str:
        """Which key a call is on."""
        return self._calls[place].key

    def commands(self, places: Sequence[int], *, known: bool = True) -> list[RedisCommand]:
        """Some calls as Redis's commands; not `known`: with their source."""
        return [self._calls[place].command(known=known) for place in places]

    def take(self, places: Sequence[int], answers: list[Any]) -> list[int]:
        """Note the answers to some calls, and those to the questions behind them; which scripts it did not know."""
        unknown = []
        moved = 0
        for place, reply in zip(places, answers, strict=False):
            self.replies[place] = reply
            if not isinstance(reply, ResponseError):
                continue
            if isinstance(reply, NoScriptError):
                unknown.append(place)
            elif isinstance(reply, MovedError):
                moved += 1
                self.moved = reply
                if self._redirections > 0:
                    self.left.append(place)
        if not unknown and moved < len(places):
            self.asked.append(answers[len(places) :])
        return unknown

    def refusal(self, places: Sequence[int]) -> Exception | None:
        """Why a server refused one of these calls, if it did."""
        return next((self.replies[place] for place in places if isinstance(self.replies[place], Exception)), None)

    def failed(self, places: Sequence[int], error: RedisError | ConfigurationError) -> None:
        """Note why some calls were not answered, except those that were refused before."""
        for place in places:
            if place not in self.left:
                self.replies[place] = error
