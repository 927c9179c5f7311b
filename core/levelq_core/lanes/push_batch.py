"""One push to one server or several: what is still to be sent, and what was answered. No I/O: the clients share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import MovedError, NoScriptError, RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.cluster import REDIRECTIONS
from levelq_core.redis_client.pool import RedisCommand

from .protocol import Protocol, PushAnswer, PushError
from .script_files import Call


class PushBatch:
    """The calls of one push, each known by its index, and the commands that follow them on each connection."""

    def __init__(self, calls: Sequence[Call], then: Sequence[RedisCommand]) -> None:
        self.moved: MovedError | None = None  # the last redirection of this round
        self._calls = calls
        self._then = then
        self._replies: list[Any] = [None] * len(calls)
        self._durability_replies: list[list[Any]] = [[] for _ in calls]
        self._pending = list(range(len(calls)))
        self._rounds_left = REDIRECTIONS

    def next_round(self) -> list[int]:
        """The calls to send now; none when all are answered."""
        pending, self._pending, self.moved = self._pending, [], None
        self._rounds_left -= 1
        return pending

    def key(self, index: int) -> str:
        """The key that decides which server a call goes to."""
        return self._calls[index].key

    def commands(self, indexes: Sequence[int], *, known: bool = True) -> list[RedisCommand]:
        """What to send to one server; `known`: it has the scripts, else they go along as source."""
        return [*(self._calls[index].command(known=known) for index in indexes), *self._then]

    def record(self, indexes: Sequence[int], replies: list[Any]) -> list[int]:
        """Note the replies of one server; returns the calls whose script it does not know."""
        unknown = []
        durability_replies = replies[len(indexes) :]
        for index, reply in zip(indexes, replies, strict=False):
            self._replies[index] = reply
            self._durability_replies[index] = durability_replies
            if isinstance(reply, NoScriptError):
                unknown.append(index)
            elif isinstance(reply, MovedError):
                self.moved = reply
                if self._rounds_left > 0:
                    self._pending.append(index)
        return unknown

    def fail(self, indexes: Sequence[int], error: RedisError | ConfigurationError) -> None:
        """Note why calls were not answered, except those that will be sent again."""
        for index in indexes:
            if index not in self._pending:
                self._replies[index] = error

    def answers(self) -> list[PushAnswer | PushError]:
        """What became of each call, in order."""
        answers = [Protocol.pushed(reply) for reply in self._replies]
        for answer, durability_replies in zip(answers, self._durability_replies, strict=True):
            if isinstance(answer, PushAnswer):
                answer.durability_replies = durability_replies
        return answers
