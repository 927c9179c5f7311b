"""The colours of the console: those used together differ enough (WCAG 2.2 AA), in the light and in the dark theme."""

import re
from importlib.resources import files

import pytest

CSS = (files("levelq.console") / "static" / "console.css").read_text(encoding="utf-8")
TOKENS = dict(re.findall(r"--([\w-]+): (light-dark\([^)]*\))", CSS))
THEMES = ("light", "dark")

TEXT = 4.5  # ratio of text to what is behind it
SHAPE = 3.0  # of lines and borders that tell something

GROUNDS = ("page", "surface", "raised")
PAIRS = [
    *((ink, ground, TEXT) for ink in ("ink", "muted", "accent", "wrong", "note", "well") for ground in GROUNDS),
    *(("ink", f"{kind}-soft", TEXT) for kind in ("accent", "wrong", "note", "well")),
    *((kind, f"{kind}-soft", TEXT) for kind in ("accent", "wrong", "note", "well")),
    ("on-accent", "accent", TEXT),
    ("on-wrong", "wrong", TEXT),
    *((shape, ground, SHAPE) for shape in ("control", "accent") for ground in GROUNDS),
    ("series-1", "surface", SHAPE),
    ("series-2", "surface", SHAPE),
]


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The ratio of two colours such as #1549c7, 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_colours_used_together_have_enough_contrast(theme: str) -> None:
    values = {name: re.findall(r"#[0-9a-f]{6}", value)[THEMES.index(theme)] for name, value in TOKENS.items()}
    too_low = {
        (ink, ground): round(contrast(values[ink], values[ground]), 2)
        for ink, ground, least in PAIRS
        if contrast(values[ink], values[ground]) < least
    }
    assert too_low == {}


def test_every_text_colour_of_a_rule_that_sets_its_ground_is_a_tested_pair() -> None:
    tested = {(ink, ground) for ink, ground, _ in PAIRS}
    used = set()
    for rule in re.findall(r"\{([^{}]*)\}", CSS):
        ink = re.search(r"(?<![\w-])color: var\(--([\w-]+)\)", rule)
        ground = re.search(r"(?<![\w-])background: var\(--([\w-]+)\)", rule)
        if ink and ground:
            used.add((ink[1], ground[1]))
    assert used
    assert used <= tested


def test_colours_have_names() -> None:
    rules = CSS.partition("\n}\n")[2]
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b", rules) == []
