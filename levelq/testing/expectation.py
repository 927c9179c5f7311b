"""Which commands a test expects, and in words how those that were sent differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from levelq_core.domain.commands import COMMAND_NAMES, Command, command_id_for

_MOST_SHOWN = 20


class Expectation:
    """Commands of one kind (None: any), or of an application's subclass of it, with these values in their fields.

    Raises TypeError for what is no kind of command, and for a field that the kind does not have: such an expectation
    would never be met, and `assert_not_sent` would always pass.
    """

    def __init__(self, kind: type[Command] | None, fields: Mapping[str, Any]) -> None:
        kinds = get_args(Command)
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, kinds)):
            raise TypeError(f"kind: expected {COMMAND_NAMES}, or none for any, got {kind!r}")
        known = {name: None for one in ([kind] if kind else kinds) for name in one.model_fields}
        if unknown := [name for name in fields if name not in known]:
            owner = kind.__name__ if kind else "commands"
            raise TypeError(f"{', '.join(unknown)}: expected fields of {owner}, which are {', '.join(known)}")
        self._kind = kind
        self._fields = dict(fields)
        if isinstance(key := self._fields.pop("idempotency_key", None), str):
            self._fields["command_id"] = command_id_for(key)  # a command keeps only that
        if isinstance(name := fields.get("specialization"), str):
            self._fields["specialization"] = name.upper()  # as commands fold it

    def __str__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._fields.items())
        return f"{self._kind.__name__ if self._kind else 'command'}({fields})"

    def difference(self, command: Command) -> str:
        """How a command differs from what is expected; empty if it does not."""
        if self._kind is not None and not isinstance(command, self._kind):
            return f"not a {self._kind.__name__}"
        absent = object()
        found = {name: getattr(command, name, absent) for name in self._fields}
        return ", ".join(
            f"has no {name}" if value is absent else f"{name} is {value!r}"
            for name, value in found.items()
            if value is absent or value != self._fields[name]
        )

    def matches(self, command: Command) -> bool:
        """Whether a command is as expected."""
        return not self.difference(command)

    def listing(self, sent: Sequence[Command]) -> str:
        """What was sent, one command a line, each with its difference; those of the expected kind first."""
        if not sent:
            return "nothing was sent"
        ordered = sorted(sent, key=lambda command: not self._is_kind(command))
        lines = [f"  {shown(command)}{self._note(command)}" for command in ordered[:_MOST_SHOWN]]
        if len(sent) > _MOST_SHOWN:
            lines.append(f"  and {len(sent) - _MOST_SHOWN} more")
        return "\n".join([f"sent: {len(sent)} command{'s' * (len(sent) != 1)}", *lines])

    def _is_kind(self, command: Command) -> bool:
        return self._kind is None or isinstance(command, self._kind)

    def _note(self, command: Command) -> str:
        difference = self.difference(command)
        return f"  <- {difference}" if difference else ""


def shown(command: Command) -> str:
    """A command in one line: its kind, and the fields that are not at their defaults."""
    fields = command.model_dump(exclude_defaults=True, exclude={"command_id"})
    return f"{type(command).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
