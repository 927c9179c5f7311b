"""What must be true of every state of the protocol, in the words of the invariants I1, I2, I5 and I7."""

from __future__ import annotations

from collections.abc import Iterator

from .state import Commands, Lane, State


def wrong(commands: tuple[Commands, ...], state: State) -> str:
    """What is wrong with a state; nothing, as it should be. `commands`: per lane, in the order of their push."""
    for number, lane, pushed, decided in _lanes(commands, state):
        if lane.ready and lane.token:
            return f"lane {number} is both ready and claimed"
        if lane.entries and not lane.ready and not lane.token:
            return f"lane {number} is stranded: it holds commands, and is neither ready nor claimed"
        if len(set(decided)) < len(decided):
            return f"lane {number}: a command took effect twice: {' '.join(decided)}"
        if lost := set(pushed) - set(decided) - set(lane.entries):
            return f"lost: {' '.join(sorted(lost))}"
        if decided != pushed[: len(decided)]:
            return f"lane {number} is out of order: {' '.join(decided)}"
    return ""


def done(commands: tuple[Commands, ...], state: State) -> bool:
    """Whether every command that was pushed is in the ledger."""
    return all(set(pushed) <= set(decided) for _, _, pushed, decided in _lanes(commands, state))


def _lanes(commands: tuple[Commands, ...], state: State) -> Iterator[tuple[int, Lane, Commands, Commands]]:
    """Per lane: its number, what Redis holds, what was pushed, what was decided.

    What a rollback took with it is left out: it may still take effect, if a worker had it in hand.
    """
    for l, (lane, names) in enumerate(zip(state.redis.lanes, commands, strict=True)):
        pushed, decided = names[: state.pushed[l]], state.ledger[l]
        if state.gone:
            pushed = tuple([command for command in pushed if command not in state.gone])
            decided = tuple([command for command in decided if command not in state.gone])
        yield l + 1, lane, pushed, decided
