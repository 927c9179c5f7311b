"""The recorded history: the answers that producers got, as JSON lines. `Recorder` writes it, `Reader` reads it.

One line for each send, in send order per lane within one file:

    {"command_id": "...", "user_id": 7, "specialization": "PLAYER", "digest": "<32 hex digits>",
     "sent_at": 1767225600.25, "acknowledged": true}

`acknowledged` is true, false (refused: certainly not queued) or null (the reply was lost, or the durability
asked for was not confirmed: Redis may lose it). A line with
`"intent": true`, written before the push, lets a verification run while traffic flows: what is decided
was pushed, and what was pushed was intended, so a decision without a line is of a command that was never sent.

Three more kinds of lines are read where they occur: `{"fault": ...}`, a measured recovery, and
`{"claim": ...}` and `{"ack": ...}`, what a drain was granted and what its acknowledgement removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from levelq_core.domain.codec import record_of
from levelq_core.domain.commands import MAX_USER_ID, Command
from levelq_core.errors import ConfigurationError, NotDurable, SendUnknown, describe
from levelq_core.keys import Partition


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Send(_Line):
    """One send of one command, or the intent to send it; times are seconds since 1970."""

    command_id: UUID
    user_id: int = Field(ge=1, le=MAX_USER_ID)
    specialization: str = Field(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")
    digest: str = Field(pattern=r"^[0-9a-f]{32}$")
    sent_at: float
    acknowledged: bool | None
    intent: bool = False


class Recovery(_Line):
    """How long the backlog took to drain after a fault ended; None: it did not.

    `work_seconds`: how long the backlog takes to drain without any fault. The claim's and the sweep's
    lengths are the settings' unless given.
    """

    fault: str
    ended_at: float
    drained_at: float | None
    work_seconds: float = Field(ge=0)
    claim_seconds: float | None = None
    sweep_seconds: float | None = None


class Claimed(_Line):
    """A claim that was granted on one lane."""

    claim: str
    partition: str
    lane: str


class Acknowledged(_Line):
    """What an acknowledgement did to one lane: how many entries went, -1 if the claim was no longer held."""

    ack: str
    partition: str
    lane: str
    removed: int = Field(ge=-1)


Line = Send | Recovery | Claimed | Acknowledged
_KINDS = {"command_id": "send", "fault": "recovery", "claim": "claim", "ack": "ack"}


def _kind(value: Any) -> str | None:
    return next((kind for key, kind in _KINDS.items() if isinstance(value, dict) and key in value), None)


_lines: TypeAdapter[Line] = TypeAdapter(
    Annotated[
        Annotated[Send, Tag("send")]
        | Annotated[Recovery, Tag("recovery")]
        | Annotated[Claimed, Tag("claim")]
        | Annotated[Acknowledged, Tag("ack")],
        Discriminator(_kind),
    ]
)


class Recorder:
    """Appends to a history file. Each call is one write, so threads and processes may share the file.

    The sends of one lane must be recorded in the order they are made: one thread at a time per lane.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def intend(self, commands: Iterable[Command]) -> None:
        """Note that these are about to be sent."""
        self._write(_send(command, None, intent=True) for command in commands)

    def sent(self, commands: Iterable[Command], errors: Iterable[Exception | None]) -> None:
        """Note what each send led to: its handle's error, or None."""
        self._write(
            _send(command, None if isinstance(error, SendUnknown | NotDurable) else error is None)
            for command, error in zip(commands, errors, strict=True)
        )

    def recovered(self, fault: str, ended_at: float, drained_at: float | None, work_seconds: float) -> None:
        """Note how long a recovery took."""
        self._write([Recovery(fault=fault, ended_at=ended_at, drained_at=drained_at, work_seconds=work_seconds)])

    def claimed(self, partition: Partition, token: str, lanes: Iterable[bytes]) -> None:
        """Note the lanes that a claim was granted."""
        self._write(Claimed(claim=token, partition=str(partition), lane=_printable(lane)) for lane in lanes)

    def acknowledged(self, partition: Partition, token: str, lanes: Iterable[bytes], removed: Iterable[int]) -> None:
        """Note what an acknowledgement removed from each lane."""
        self._write(
            Acknowledged(ack=token, partition=str(partition), lane=_printable(lane), removed=count)
            for lane, count in zip(lanes, removed, strict=True)
        )

    def _write(self, lines: Iterable[_Line]) -> None:
        self._file.write("".join(line.model_dump_json(exclude_defaults=True) + "\n" for line in lines).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        self.close()
        return False


def _send(command: Command, acknowledged: bool | None, *, intent: bool = False) -> Send:
    return Send(
        command_id=command.command_id,
        user_id=command.user_id,
        specialization=command.specialization,
        digest=record_of(command).digest.hex(),
        sent_at=time.time(),
        acknowledged=acknowledged,
        intent=intent,
    )


def _printable(lane: bytes) -> str:
    return lane.decode("utf-8", "backslashreplace")


class Reader:
    """Reads history files that may still grow; a last line that is not complete is left for the next time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._offsets = [0] * len(paths)
        self._numbers = [0] * len(paths)

    def new(self) -> Iterator[tuple[int, int, Line]]:
        """What was added since the last call, as (file, line number, line). Raises ConfigurationError."""
        for source, path in enumerate(self._paths):
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    file.seek(self._offsets[source])
                    while self._offsets[source] < size and (raw := file.readline()).endswith(b"\n"):
                        self._offsets[source] += len(raw)
                        self._numbers[source] += 1
                        yield source, self._numbers[source], _parse(raw, path, self._numbers[source])
            except OSError as error:
                raise ConfigurationError(
                    f"--history: {path}: {error.strerror}", setting="--history", value=path
                ) from None


def _parse(raw: bytes, path: Path, number: int) -> Line:
    try:
        return _lines.validate_json(raw)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        detail["loc"] = detail["loc"][1:] or ("line",)
        message = f"--history: {path}, line {number}: {describe(detail)}"
        raise ConfigurationError(message, setting="--history", value=path) from None
