"""Numbers in messages."""

import pytest

from levelq_core.operations.wording import count


@pytest.mark.parametrize(
    ("number", "thing", "shown"),
    [
        (1, "pair", "1 pair"),
        (1_200, "pair", "1,200 pairs"),
        (1, "quarantined entry", "1 quarantined entry"),
        (2, "quarantined entry", "2 quarantined entries"),
    ],
)
def test_count_has_the_plural_of_the_thing(number: int, thing: str, shown: str) -> None:
    assert count(number, thing) == shown
