"""The settings page: every setting has its group and its meaning."""

from levelq.console.pages.setting_meanings import GROUPS, MEANINGS, UNSET
from levelq_core import Settings


def test_every_setting_has_one_group_and_a_meaning() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(Settings.model_fields) and MEANINGS.keys() == Settings.model_fields.keys()
    assert UNSET.keys() <= MEANINGS.keys()
