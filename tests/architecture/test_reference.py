"""docs/reference: every error has its cause and remedy, and every setting a value that is refused as the page says."""

import re

import pytest

from levelq_core import ConfigurationError, LevelqError, Settings, errors
from tests.architecture.sources import ROOT

REFERENCE = ROOT / "docs" / "reference"
ERRORS = {
    name: error for name, error in vars(errors).items() if isinstance(error, type) and issubclass(error, LevelqError)
}
SECTIONS = dict(
    re.findall(r"^##+ (\w+)\n(.+?)(?=^##|\Z)", (REFERENCE / "errors.md").read_text(), re.MULTILINE | re.DOTALL)
)
REFUSALS = re.findall(r"^\| `LEVELQ_(\w+)=(.+?)` \| `(.+?)` \|", (REFERENCE / "settings.md").read_text(), re.MULTILINE)


def test_errors_page_has_every_error_and_no_other() -> None:
    assert {name for name, text in SECTIONS.items() if "**Cause**" in text} == ERRORS.keys()


@pytest.mark.parametrize("name", ERRORS)
def test_errors_page_has_cause_remedy_bases_and_attributes(name: str) -> None:
    text, error = SECTIONS[name], ERRORS[name]
    assert re.search(r"^\*\*Cause\*\*: .+^\*\*Remedy\*\*: ", text, re.MULTILINE | re.DOTALL)
    bases = {base.__name__ for base in error.__bases__} - {"LevelqError", "Exception"}
    attributes = vars(error).get("__annotations__", {}).keys() | vars(error("")).keys()
    attributes -= vars(error.__mro__[1]("")).keys()
    assert [word for word in bases | attributes if f"`{word}`" not in text] == []


def test_settings_page_refuses_a_value_of_every_setting() -> None:
    assert sorted(name.lower() for name, _, _ in REFUSALS) == sorted(Settings.model_fields)


@pytest.mark.parametrize(("name", "value", "message"), REFUSALS, ids=[name for name, _, _ in REFUSALS])
def test_setting_is_refused_as_the_page_says(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        assert Settings.load(**{name.lower(): value}).tracks
    assert str(raised.value).removeprefix(f"LEVELQ_{name}: ").startswith(message)
