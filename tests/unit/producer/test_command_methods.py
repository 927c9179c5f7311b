"""The producer's methods for commands: typed as the commands are, for threads and for asyncio alike."""

import inspect
from typing import Any, get_type_hints
from uuid import UUID

import pytest

from levelq_core import Adjust, Command, InvalidCommand, LevelUp, Reset, SetLevel, SyncLevels, command_id_for
from levelq_core.settings import Durability
from levelq_producer import AsyncProducer, Producer
from levelq_producer.async_command_methods import AsyncCommandMethods
from levelq_producer.command_methods import CommandMethods

# The method of each command, and its fields that are positional, beside user_id and specialization.
METHODS: dict[str, tuple[type[Command], str]] = {
    "level_up": (LevelUp, "xp_gained"),
    "set_level": (SetLevel, "new_level"),
    "sync": (SyncLevels, "source"),
    "adjust": (Adjust, "xp_change"),
    "reset": (Reset, "total_xp"),
}
OF_A_SEND = {"reply": True, "durability": None}


@pytest.mark.parametrize("kind", [Producer, AsyncProducer])
@pytest.mark.parametrize("name", METHODS)
def test_method_has_every_field_of_its_command_typed_alike(kind: type[Any], name: str) -> None:
    model, positional = METHODS[name]
    method = getattr(kind, name)
    hints = get_type_hints(method, localns={"Durability": Durability})
    parameters = dict(inspect.signature(method).parameters)
    del parameters["self"]
    assert parameters.keys() == model.model_fields.keys() | OF_A_SEND.keys()
    assert {p.kind for p in parameters.values()} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }
    by_place = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert by_place == ["user_id", "specialization", positional]
    defaults = {p.name: p.default for p in parameters.values() if p.name != positional}
    fields = get_type_hints(model) | {"command_id": UUID | None}
    for field, info in model.model_fields.items():
        assert hints[field] == fields[field], field
        if field not in ("user_id", "specialization", "command_id", positional):
            assert defaults[field] == info.default, field
    assert defaults["command_id"] is None
    assert {name: defaults[name] for name in OF_A_SEND} == OF_A_SEND


class Sent(CommandMethods):
    """Keeps what would be sent."""

    def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> Any:
        return command, reply, durability


class AsyncSent(AsyncCommandMethods):
    async def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> Any:
        return command, reply, durability


@pytest.mark.parametrize("name", METHODS)
async def test_method_sends_the_command_with_all_that_was_given(name: str) -> None:
    model, _ = METHODS[name]
    given: dict[str, Any] = {
        field: "license" if field == "source" else "earned" if field == "level" else number
        for number, field in enumerate(model.model_fields, 2)
        if field not in ("specialization", "command_id", "idempotency_key")
    }
    given |= {"specialization": "player", "reason": "won"}
    expected = model(**given, idempotency_key="k"), False, "fsync"
    options = given | {"idempotency_key": "k", "reply": False, "durability": "fsync"}
    assert getattr(Sent(), name)(**options) == expected
    assert await getattr(AsyncSent(), name)(**options) == expected
    with_id = getattr(Sent(), name)(**given, command_id=command_id_for("k"))
    assert with_id == (expected[0], True, None)


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("user_id", 2**63, 2**63 - 1),
        ("xp_gained", 2**31, 2**31 - 1),
        ("reason", "x" * 501, 500),
        ("idempotency_key", "x" * 201, 200),
        ("xp_gained", "5", None),
    ],
)
def test_error_of_a_field_has_its_value_and_the_limit_that_it_names(field: str, value: Any, limit: int | None) -> None:
    with pytest.raises(InvalidCommand) as caught:
        Sent().level_up(**{"user_id": 1, "specialization": "PLAYER", "xp_gained": 1, field: value})
    assert (caught.value.field, caught.value.value, caught.value.limit) == (field, value, limit)


def test_wrong_field_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidCommand, match=r"^xp_gained: "):
        Sent().level_up(1, "PLAYER", -1)
    with pytest.raises(TypeError, match="bonus"):
        Sent().level_up(1, "PLAYER", 1, bonus=2)  # type: ignore[call-arg]
