"""What the demo knows to be true without asking levelq: what was sent, acknowledged, called and answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

from .scenario import Place, Sent


class Answer(NamedTuple):
    """What a repeated send was told."""

    command_id: UUID
    status: str
    error: str | None
    duplicate: bool


class Call(NamedTuple):
    """One direct call: the command it stands for, the dict it returned, how long it took."""

    sent: Sent
    result: dict[str, Any]
    seconds: float


@dataclass
class Record:
    """Filled in by the demo; the verifier compares the database with it."""

    sends: list[Sent]
    acknowledged: set[UUID] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    pushes: list[tuple[float, float]] = field(default_factory=list)

    def add_producer(self, result: dict[str, Any]) -> None:
        """Take in what a producer process reports."""
        self.acknowledged |= {UUID(text) for text in result["acknowledged"]}
        self.refused += result["errors"]
        self.answers += [Answer(UUID(text), *rest) for text, *rest in result["answers"]]
        self.pushes += [(begun, ended) for begun, ended in result["spans"]]

    def add_caller(self, result: dict[str, Any]) -> None:
        """Take in what the direct caller reports."""
        for call in result["calls"]:
            sent = Sent(
                UUID(call["command_id"]), call["user_id"], call["specialization"], "level_up", "applied",
                xp=call["xp"], sessions=call["sessions"],
            )  # fmt: skip
            self.calls.append(Call(sent, call["result"], call["seconds"]))

    @cached_property
    def first_sends(self) -> dict[UUID, Sent]:
        """By id, the send that counts; in the order of sending."""
        return {sent.command_id: sent for sent in self.sends if sent.fate in ("applied", "rejected")}

    @cached_property
    def lanes(self) -> dict[Place, list[UUID]]:
        """Per lane, the ids of its first sends in their order."""
        lanes: dict[Place, list[UUID]] = {}
        for sent in self.first_sends.values():
            lanes.setdefault(sent.place, []).append(sent.command_id)
        return lanes

    @cached_property
    def succeeded(self) -> dict[UUID, Call]:
        """The direct calls that said they worked."""
        return {call.sent.command_id: call for call in self.calls if call.result.get("success") is True}

    @cached_property
    def known(self) -> dict[UUID, Sent]:
        """Everything that may have had an effect, by id."""
        return self.first_sends | {call.sent.command_id: call.sent for call in self.calls}
