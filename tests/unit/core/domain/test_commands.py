"""Commands are validated strictly, once, when they are made."""

import re
import time
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from levelq_core import Adjust, Command, InvalidCommand, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.domain.codec import encode
from levelq_core.domain.commands import MAX_NUMBER, MAX_USER_ID, build, command_id_for, new_command_id, retry_id
from tests.support.commands import CHANGES, GAINS, TOTALS

PLACE: dict[str, Any] = {"user_id": 42, "specialization": "PLAYER"}
MODELS: dict[type[Command], dict[str, Any]] = dict.fromkeys((LevelUp, SyncLevels, Adjust, Reset), PLACE)
MODELS[SetLevel] = PLACE | {"new_level": 2}
NUMBERS = [
    *((LevelUp, name) for name in GAINS),
    *((SetLevel, name) for name in ("new_level", *CHANGES)),
    *((Adjust, name) for name in CHANGES),
    *((Reset, name) for name in (*TOTALS, "level")),
    *((model, name) for model in MODELS for name in ("user_id", "advanced_by")),
]
NOT_WHOLE_NUMBERS = ["5", b"5", 5.0, 5.5, True, False, float("nan"), float("inf"), [5], {}, 1j]


def refused(model: type[Command], **fields: Any) -> str:
    with pytest.raises(InvalidCommand) as caught:
        build(model, **(MODELS[model] | fields))  # type: ignore[type-var]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("value", NOT_WHOLE_NUMBERS, ids=repr)
@pytest.mark.parametrize(("model", "field"), NUMBERS, ids=lambda part: getattr(part, "__name__", part))
def test_value_that_is_no_integer_is_refused(model: type[Command], field: str, value: object) -> None:
    message = refused(model, **{field: value})
    assert message.startswith(f"{field}: ")
    assert message.endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("model", "field"), [*((LevelUp, name) for name in GAINS), *((Reset, name) for name in TOTALS)], ids=str
)
def test_gain_is_0_to_2_31_minus_1(model: type[Command], field: str) -> None:
    for value in (0, MAX_NUMBER):
        assert getattr(model(**(PLACE | {field: value})), field) == value
    for value in (-1, MAX_NUMBER + 1, 10**30):
        assert str(value) in refused(model, **{field: value})


@pytest.mark.parametrize("field", ("new_level", *CHANGES))
def test_change_is_within_31_bits_and_a_sign(field: str) -> None:
    for value in (-MAX_NUMBER, 0, MAX_NUMBER):
        assert getattr(build(SetLevel, **(MODELS[SetLevel] | {field: value})), field) == value
    for value in (-MAX_NUMBER - 1, MAX_NUMBER + 1, -(10**30)):
        assert refused(SetLevel, **{field: value}).startswith(f"{field}: ")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("field", ("user_id", "advanced_by"))
def test_user_id_is_1_to_2_63_minus_1(model: type[Command], field: str) -> None:
    for value in (1, MAX_USER_ID):
        assert getattr(model(**(MODELS[model] | {field: value})), field) == value
    for wrong in (0, -1, 2**63, "user", None if field == "user_id" else "none"):
        assert refused(model, **{field: wrong}).startswith(f"{field}: ")


@pytest.mark.parametrize("model", MODELS)
def test_user_specialization_and_new_level_are_required(model: type[Command]) -> None:
    for name in MODELS[model]:
        fields = {key: value for key, value in MODELS[model].items() if key != name}
        with pytest.raises(InvalidCommand, match=f"^{name}: Field required"):
            build(model, **fields)  # type: ignore[type-var]


@pytest.mark.parametrize("model", MODELS)
def test_unknown_fields_are_refused(model: type[Command]) -> None:
    assert refused(model, levels=5).startswith("levels: Extra inputs are not permitted")
    assert refused(model, kind="level_up").startswith("kind: ")


@pytest.mark.parametrize("name", ["p", "Player", "a1", "GAN_FOOTVOLLEY", "x" * 32])
def test_specialization_folds_to_upper_case(name: str) -> None:
    assert LevelUp(user_id=1, specialization=name).specialization == name.upper()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "1A",
            "_A",
            "x" * 33,
            "A-B",
            "A B",
            " A",
            "A\n",
            "A\0",
            "A:1",
            "{A}",
            "É",
            "\u017fA",
            "A\u0131",
            "A\ud800",
        ),
        *(5, None, b"A"),
    ],
    ids=repr,
)
def test_specialization_unfit_for_a_key_or_a_queue_name_is_refused(name: object) -> None:
    assert refused(LevelUp, specialization=name).startswith("specialization: ")


@pytest.mark.parametrize("model", MODELS)
def test_json_schema_has_a_pattern_that_every_validator_can_read(model: type[Command]) -> None:
    """An application shows it to clients in its OpenAPI document. Rust's \\z, for one, is an error elsewhere."""
    pattern = model.model_json_schema()["properties"]["specialization"]["pattern"]
    assert pattern == "^[A-Za-z][A-Za-z0-9_]{0,31}$"
    assert [name for name in ("Player_2", "", "2A", "A-B", "x" * 33) if re.search(pattern, name)] == ["Player_2"]


@pytest.mark.parametrize("model", MODELS)
def test_reason_has_500_characters_of_any_length_in_bytes(model: type[Command]) -> None:
    for reason in ("", "x" * 500, "😀" * 500, "line\nbreak\ttab", "\u200b\ufffe"):
        assert model(**MODELS[model], reason=reason).reason == reason
    for bad in ("x" * 501, "😀" * 501, "NUL\0", "\ud800", "ok \udfff", 5, None, b"text"):
        assert refused(model, reason=bad).startswith("reason: ")


def test_sync_has_one_of_two_sources() -> None:
    assert SyncLevels(**PLACE).source == "progress"
    assert SyncLevels(**PLACE, source="license").source == "license"
    for bad in ("PROGRESS", "", "both", None, 0, 1):
        assert refused(SyncLevels, source=bad).startswith("source: ")


def test_adjust_keeps_the_levels_or_sets_what_is_earned() -> None:
    assert Adjust(**PLACE).level == "keep"
    assert Adjust(**PLACE, level="earned").level == "earned"
    for bad in ("EARNED", "", "kept", None, 0, 5, True):
        assert refused(Adjust, level=bad).startswith("level: ")


def test_reset_sets_what_is_earned_or_a_level() -> None:
    assert Reset(**PLACE).level == "earned"
    for level in (-MAX_NUMBER, 0, 1, 8, MAX_NUMBER):  # whether the catalog has it is decided later, as of a SetLevel
        assert Reset(**PLACE, level=level).level == level
    for bad in ("5", "keep", True, 5.0, None, MAX_NUMBER + 1, -MAX_NUMBER - 1, [1]):
        message = refused(Reset, level=bad)
        assert message == f"level: expected 'earned' or a level (an integer of less than 2^31 in size), got {bad!r}"


def test_command_id_is_a_uuid_and_nothing_else() -> None:
    given_id = UUID(int=0)
    assert LevelUp(**PLACE, command_id=given_id).command_id == given_id
    for bad in (str(given_id), given_id.bytes, given_id.int, None):
        assert refused(LevelUp, command_id=bad).startswith("command_id: ")


def test_other_fields_are_0_or_empty_by_default() -> None:
    up, to = LevelUp(**PLACE), SetLevel(**PLACE, new_level=1)
    assert [getattr(up, name) for name in GAINS] == [0] * 5
    assert [getattr(to, name) for name in CHANGES] == [0] * 5
    assert [getattr(Adjust(**PLACE), name) for name in CHANGES] == [0] * 5
    assert [getattr(Reset(**PLACE), name) for name in TOTALS] == [0] * 5
    assert (up.reason, up.advanced_by) == ("", None)


@pytest.mark.parametrize("model", MODELS)
def test_command_is_immutable(model: type[Command]) -> None:
    command = model(**MODELS[model])
    for name in ("user_id", "specialization", "command_id", "reason"):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(command, name, getattr(command, name))


@pytest.mark.parametrize("model", MODELS)
def test_copy_with_other_values_is_validated_and_keeps_the_rest(model: type[Command]) -> None:
    command = model(**MODELS[model], reason="won", idempotency_key="a")
    copied = command.model_copy(update={"user_id": 7, "specialization": "coach"})
    assert copied.model_dump() == command.model_dump() | {"user_id": 7, "specialization": "COACH"}
    assert command.model_copy() == command.model_copy(deep=True) == command
    assert command.model_copy(update={"idempotency_key": "b"}).command_id == command_id_for("b")
    for wrong in ({"user_id": 0}, {"reason": "a\0"}, {"other": 1}, {"idempotency_key": "b", "command_id": UUID(int=1)}):
        with pytest.raises(ValidationError):
            command.model_copy(update=wrong)


def test_every_wrong_field_is_named_with_its_value() -> None:
    with pytest.raises(InvalidCommand) as caught:
        build(LevelUp, user_id=0, specialization="no way", xp_gained="x" * 1000)
    message = str(caught.value)
    assert message.count("; ") == 2
    for part in ("user_id: ", "got 0", "specialization: ", "got 'no way'", "xp_gained: ", "x..."):
        assert part in message
    assert len(message) < 400
    assert isinstance(caught.value, ValueError)


def _at(monkeypatch: pytest.MonkeyPatch, nanoseconds: int) -> UUID:
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)
    return new_command_id()


def test_command_id_has_the_layout_of_rfc_9562(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _at(monkeypatch, 0x0123_4567_89AB * 1_000_000 + 999_999)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == 0x0123_4567_89AB
    assert made.int >> 64 & 0xFFF == 4095  # the last 244 ns of the millisecond


def test_command_id_holds_the_current_time() -> None:
    before = time.time_ns() // 1_000_000
    made = new_command_id()
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


@given(st.lists(st.integers(0, 2**48 * 1000 - 1), min_size=2, unique=True))
def test_command_ids_ascend_with_the_microsecond(moments: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ids = [_at(patch, microseconds * 1000) for microseconds in sorted(moments)]
    assert ids == sorted(ids)


def test_command_ids_of_one_moment_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({_at(monkeypatch, 10**18) for _ in range(1000)}) == 1000


def test_two_commands_do_not_share_an_id() -> None:
    assert LevelUp(**PLACE).command_id != LevelUp(**PLACE).command_id


# Idempotency keys


def test_id_of_a_key_is_a_uuid5_that_any_language_computes() -> None:
    """A promise: ids in ledgers, and in other languages' code, rest on it."""
    namespace = uuid5(NAMESPACE_URL, "levelq:idempotency-key")
    assert str(namespace) == "29831f37-f137-59fa-a1d5-c3c47a1f7831"
    assert str(command_id_for("match-991:player-12")) == "880a5877-c92d-5127-962f-54a3aa076b39"
    for key in ("k", "k" * 200, "é", " match ", "a\0b"):
        assert command_id_for(key) == uuid5(namespace, key)
        assert command_id_for(key).version == 5


def test_id_of_a_retry_follows_from_that_of_its_command_and_of_nothing_else() -> None:
    """A promise: the retries that ledgers hold are found by it."""
    first = retry_id(UUID("01980000-0000-7000-8000-000000000001"))
    assert str(first) == "3c4d40df-138d-5c4a-a1ca-b493e723edc3"
    assert retry_id(first) not in (first, UUID("01980000-0000-7000-8000-000000000001"))


@pytest.mark.parametrize("model", MODELS)
def test_key_gives_the_command_its_id_and_nothing_else(model: type[Command]) -> None:
    command = model(**MODELS[model], idempotency_key="match-991")
    same = model(**MODELS[model], command_id=command_id_for("match-991"))
    assert command == same == model(**command.model_dump()) == model.model_validate_json(command.model_dump_json())
    assert encode(command) == encode(same)
    assert command.model_dump(exclude_unset=True)["command_id"] == same.command_id
    assert "idempotency_key" not in {**command.model_dump(), **command.model_dump(mode="json")}


@pytest.mark.parametrize("key", ["", "k" * 201, 5, b"key", ["k"], "\ud800", True], ids=ascii)
def test_key_that_is_no_text_of_1_to_200_characters_is_refused(key: Any) -> None:
    message = refused(LevelUp, idempotency_key=key)
    assert message.startswith("idempotency_key: expected a text of 1 to 200 characters")
    with pytest.raises(InvalidCommand, match=r"^idempotency_key: expected a text of 1 to 200 characters") as caught:
        command_id_for(key)
    assert (caught.value.field, caught.value.value, caught.value.limit) == ("idempotency_key", key, 200)


def test_key_beside_an_id_is_refused() -> None:
    message = refused(LevelUp, idempotency_key="k", command_id=new_command_id())
    assert message.startswith("command_id: expected either command_id or idempotency_key, got UUID(")


@pytest.mark.parametrize(
    "value", [numpy.int64(42), Decimal(42), "42", UUID(int=42), 42.0], ids=lambda v: type(v).__name__
)
def test_user_id_of_another_type_is_refused_with_its_type_and_the_remedy(value: Any) -> None:
    with pytest.raises(InvalidCommand) as caught:
        build(LevelUp, user_id=value, specialization="PLAYER")
    expected = (
        "user_id: expected an integer from 1 to 2^63 - 1 (int(...) makes one of a text, a Decimal or a NumPy integer)"
    )
    assert str(caught.value) == f"{expected}, not {type(value).__name__}, got {value!r}"
    assert (caught.value.field, caught.value.value) == ("user_id", value)
    with pytest.raises(ValidationError, match=r"user_id\n.*int\(\.\.\.\) makes one"):
        LevelUp(user_id=value, specialization="PLAYER")
