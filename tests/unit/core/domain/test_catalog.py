"""The catalog is data: what a file may contain, and the error of each wrong one."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from levelq_core import Catalog, CatalogError
from levelq_core.domain.catalog import Requirement, Track
from levelq_core.settings import default_catalog
from tests.support.strategies import tracks

GOOD = """
[gardener]
tracks_hours = true
levels = [
    0,
    { total_xp = 100, completed_sessions = 2 },
    {total_xp=100, completed_sessions=2, completed_projects=1, theory_hours=5, practice_hours=9223372036854775807},
]

[Player_2]
levels = [{}, 10]
"""


def parsed(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "catalog.toml"
    path.write_text(text, encoding="utf-8")
    return Catalog.load(path)


def test_default_catalog() -> None:
    catalog = Catalog.load(None)
    assert list(catalog) == ["PLAYER", "COACH", "INTERNSHIP"]
    for name in ("PLAYER", "COACH"):
        assert [level.total_xp for level in catalog[name].levels] == [0, 1000, 2500, 5000, 10000, 20000, 40000, 80000]
    assert [level.total_xp for level in catalog["INTERNSHIP"].levels] == [0, 5000, 15000]
    assert {name for name, track in catalog.items() if track.tracks_hours} == {"COACH"}
    assert not any(any(level[1:]) for track in catalog.values() for level in track.levels)
    assert [track.max_level for track in catalog.values()] == [8, 8, 3]


def test_file_may_require_every_total(tmp_path: Path) -> None:
    catalog = parsed(tmp_path, GOOD)
    levels = (Requirement(), Requirement(100, 2), Requirement(100, 2, 1, 5, 2**63 - 1))
    assert catalog["GARDENER"] == Track("GARDENER", levels, tracks_hours=True)
    assert catalog["PLAYER_2"] == Track("PLAYER_2", (Requirement(), Requirement(10)), tracks_hours=False)
    assert len(catalog) == 2
    assert "gardener" not in catalog


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one specialization, got an empty document"),
        ("PLAYER = 5", "PLAYER: expected a list of levels, or a table, got 5"),
        (
            "[[PLAYER]]\nlevels=[0]",
            "PLAYER: level 1: expected total_xp, completed_sessions, completed_projects, theory_hours, practice_hours, "
            "got 'levels'",
        ),
        *(
            (f'["{name}"]\nlevels=[0]', f"'{name}': expected a name of letters, digits and _, at most 32")
            for name in ("a b", "x" * 33, "1A", "ß", "\u017ftaff")
        ),
        ("[a]\nlevels=[0]\n[A]\nlevels=[0]", "'A': defined twice (names fold to upper case)"),
        ("[A]\nlevels=[0]\nname='x'", "A: expected levels and tracks_hours, got 'name' too"),
        ("[A]\nlevels=[0]\ntracks_hours=1", "A: tracks_hours: expected true or false, got 1"),
        ("[A]", "A: levels: expected a list with one entry per level, got None"),
        ("[A]\nlevels=[]", "A: levels: expected a list with one entry per level, got []"),
        ("[A]\nlevels=5", "A: levels: expected a list with one entry per level, got 5"),
        *(
            (f"[A]\nlevels=[0, {raw}]", f"A: level 2: total_xp: expected a whole number from 0 to 2^63-1, got {got}")
            for raw, got in (("-1", -1), ("5.0", 5.0), ("true", True), ("'5'", "'5'"), ("nan", "nan"), (2**63, 2**63))
        ),
        (
            "[A]\nlevels=[0, {xp=5}]",
            "A: level 2: expected total_xp, completed_sessions, completed_projects, theory_hours, practice_hours, "
            "got 'xp'",
        ),
        ("[A]\nlevels=[1]", "A: level 1: expected no requirements, got total_xp 1"),
        ("[A]\nlevels=[0, 7, 6]", "A: level 3: total_xp: expected at least 7 as the level before, got 6"),
        (
            "[A]\nlevels=[0, {completed_sessions=2}, {total_xp=9}]",
            "A: level 3: completed_sessions: expected at least 2 as the level before, got 0",
        ),
        ("[A]\nlevels=[0, {theory_hours=2}]", "A: requires hours, but tracks_hours is not true"),
        ("[A]\nlevels=[0, {practice_hours=2}]\ntracks_hours=false", "A: requires hours, but tracks_hours is not true"),
    ],
)
def test_wrong_file_is_refused_with_its_position_and_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        parsed(tmp_path, text)
    assert str(caught.value) == f"catalog {tmp_path / 'catalog.toml'}: {message}"


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(CatalogError) as caught:
            Catalog.load(path)
        assert str(caught.value) == f"catalog {path}: cannot be read: {why}"


@pytest.mark.parametrize("raw", [b"[A", b"A = ", b"\xff\xfe", b"[A]\nlevels=[0]\n[A]\nlevels=[0]"])
def test_file_that_is_not_toml_is_named(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "catalog.toml"
    path.write_bytes(raw)
    with pytest.raises(CatalogError) as caught:
        Catalog.load(path)
    assert str(caught.value).startswith(f"catalog {path}: not valid TOML: ")
    assert "\n" not in str(caught.value)


ASKED = {"chef": [0, 5], "COACH": {"levels": (0, {"total_xp": 7, "theory_hours": 2}), "tracks_hours": True}}


def test_catalog_of_values_is_the_same_as_of_its_json_text_and_file(tmp_path: Path) -> None:
    catalog = Catalog.of(ASKED)
    assert catalog["CHEF"] == Track("CHEF", (Requirement(), Requirement(5)))
    assert catalog["COACH"] == Track("COACH", (Requirement(), Requirement(7, theory_hours=2)), tracks_hours=True)
    text = catalog.to_json()
    assert text == '{"CHEF":[0,5],"COACH":{"levels":[0,{"total_xp":7,"theory_hours":2}],"tracks_hours":true}}'
    (tmp_path / "catalog.json").write_text(text)
    read = [Catalog.from_json(text), Catalog.from_json(text.encode()), Catalog.load(text)]
    assert {catalog, *read, Catalog.load(tmp_path / "catalog.json")} == {catalog}
    assert Catalog.load(catalog) is catalog


@given(st.lists(tracks(), min_size=1, max_size=3, unique_by=lambda track: track.name))
def test_every_catalog_survives_its_json(several: list[Track]) -> None:
    catalog = Catalog({track.name: track for track in several})
    assert Catalog.from_json(catalog.to_json()) == catalog


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"A": [0, 7, 6]}', "A: level 3: total_xp: expected at least 7 as the level before, got 6"),
        ('{"A": [0, 7.0]}', "A: level 2: total_xp: expected a whole number from 0 to 2^63-1, got 7.0"),
        ('{"A": [0], "A": [0, 1]}', "'A': defined twice"),
        ('{"A": [0', "not valid JSON: Expecting ',' delimiter: line 1 column 9 (char 8)"),
    ],
)
def test_wrong_json_is_refused_wherever_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    (tmp_path / "catalog.json").write_text(text)
    monkeypatch.setenv("LEVELQ_CATALOG", text)
    ways = {
        message: lambda: Catalog.from_json(text),
        f"catalog {tmp_path / 'catalog.json'}: {message}": lambda: Catalog.load(tmp_path / "catalog.json"),
        f"catalog: {message}": default_catalog,
    }
    for expected, way in ways.items():
        with pytest.raises(CatalogError) as caught:
            way()
        assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 5], "expected an object with one entry per specialization, got [0, 5]"),
        ({7: [0]}, "7: expected a name of letters, digits and _, at most 32"),
        ({"A": [0, Decimal(5)]}, "A: level 2: total_xp: expected a whole number from 0 to 2^63-1, got Decimal('5')"),
    ],
)
def test_wrong_values_are_refused_with_their_position(given: Any, message: str) -> None:
    with pytest.raises(CatalogError) as caught:
        Catalog.of(given)
    assert str(caught.value) == message


def naive_level(track: Track, totals: tuple[int, ...]) -> int:
    level = 0
    for requirement in track.levels:
        if any(total < wanted for total, wanted in zip(totals, requirement, strict=True)):
            break
        level += 1
    return level


_total = st.sampled_from((0, 1, 2, 3, 4, 50, 53, 100, 2**63 - 1)) | st.integers(0, 700)


@given(tracks(), st.tuples(*[_total] * 5))
def test_level_is_reached_when_all_its_requirements_are(track: Track, totals: tuple[int, int, int, int, int]) -> None:
    assert track.level_for(totals) == naive_level(track, totals)


@given(st.sampled_from(list(Catalog.default().values())), st.integers(0, 100_000))
@example(Catalog.default()["PLAYER"], 999)
@example(Catalog.default()["PLAYER"], 1000)
@example(Catalog.default()["PLAYER"], 2**63 - 1)
def test_default_levels_are_reached_by_experience(track: Track, xp: int) -> None:
    assert track.level_for((xp, 0, 0, 0, 0)) == naive_level(track, (xp, 0, 0, 0, 0))


def test_track_without_requirements_is_at_its_highest_level_at_once() -> None:
    assert Track("ANY", (Requirement(),) * 4).level_for((0, 0, 0, 0, 0)) == 4
