"""`levelq plan` as its user sees it; it asks no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from levelq.cli.app import run

TEN_MILLION = ["plan", "--users", "10_000_000", "--rate", "100_000"]


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run([*TEN_MILLION, *arguments]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()


def test_it_says_what_is_needed_and_what_breaks_first(capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(capsys)
    assert shown[0] == "10,000,000 users, 100,000 commands a second, 1 of a user together, 60% busy at most"
    for part in ("worker processes", "Redis nodes", "PostgreSQL hosts", "its connections", "the ledger"):
        assert any(line.startswith(part) for line in shown), part
    assert "What breaks first, with one of each" in shown
    assert "docs/scaling.md" in shown[-1]


def test_the_peak_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "100,000 commands a second, 300,000 at the peak" in lines(capsys, "--peak", "3")[0]


def test_one_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines(capsys, "--json", "--commands-per-lane", "5")
    found = json.loads(line)
    assert found["load"]["commands_per_lane"] == 5
    assert found["needs"]["workers"] >= 1 and found["needs"]["shards"] >= found["needs"]["redis_nodes"]
    rates = [limit["rate"] for limit in found["breaks_first"] if limit["rate"] is not None]
    assert rates == sorted(rates) and len(rates) > 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--users 0 --rate 1", "--users: Input should be greater than or equal to 1, got 0"),
        ("--users many --rate 1", "Invalid value for '--users'"),
        ("--users 1 --rate nan", "--rate: Input should be a finite number, got nan"),
        ("--users 1", "Missing option '--rate'"),
        ("--users 1 --rate 1 --utilisation 60", "--utilisation: Input should be less than or equal to 1, got 60"),
        ("--users 1 --rate 1 --costs nowhere.json", "nowhere.json: No such file or directory"),
        ("--users 1 --rate 1e9 --backlog-seconds 1e6", "--rate, --backlog-seconds: expected what 4096 shards hold"),
    ],
)
def test_a_bad_number_gets_one_line(capsys: pytest.CaptureFixture[str], arguments: str, expected: str) -> None:
    assert run(["plan", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"levelq: {expected}")


def test_another_machines_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shipped = Path(run.__code__.co_filename).parents[1] / "capacity" / "costs.json"
    costs = json.loads(shipped.read_text())
    for part in costs["drain_us"].values():
        part |= {name: 10 * amount for name, amount in part.items()}
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(costs))
    ours, slow = (
        json.loads(lines(capsys, "--json", *more)[0])["needs"]["workers"] for more in ([], ["--costs", str(file)])
    )
    assert slow > 5 * ours
