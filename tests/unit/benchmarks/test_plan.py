"""`make plan` as its user sees it; it asks no server."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capacity import costs
from benchmarks.capacity.__main__ import main

TEN_MILLION = ["--users", "10_000_000", "--rate", "100_000"]


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    main([*TEN_MILLION, *arguments])
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    (line,) = lines(capsys, "--json", *arguments)
    found: dict[str, Any] = json.loads(line)
    return found


def test_plan_prints_needs_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(capsys)
    assert shown[0] == "10,000,000 users, 100,000 commands a second, 1 of a user together, 60% busy at most"
    for part in ("worker processes", "Redis nodes", "PostgreSQL hosts", "its connections", "the ledger"):
        assert any(line.startswith(part) for line in shown), part
    assert "What breaks first, with one of each" in shown
    assert "docs/scaling.md" in shown[-1]


def test_plan_prints_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    assert "100,000 commands a second, 300,000 at the peak" in lines(capsys, "--peak", "3")[0]


def test_plan_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "--commands-per-lane", "5")
    assert found["load"]["commands_per_lane"] == 5
    assert found["needs"]["workers"] >= 1 and found["needs"]["shards"] >= found["needs"]["redis_nodes"]
    rates = [limit["rate"] for limit in found["breaks_first"] if limit["rate"] is not None]
    assert rates == sorted(rates) and len(rates) > 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--users 0 --rate 1", "--users: Input should be greater than or equal to 1, got 0"),
        ("--users many --rate 1", "argument --users: invalid int value: 'many'"),
        ("--users 1 --rate nan", "--rate: Input should be a finite number, got nan"),
        ("--users 1", "the following arguments are required: --rate"),
        ("--users 1 --rate 1 --utilisation 60", "--utilisation: Input should be less than or equal to 1, got 60"),
        ("--users 1 --rate 1 --costs nowhere.json", "nowhere.json: No such file or directory"),
        ("--users 1 --rate 1e9 --backlog-seconds 1e6", "--rate, --backlog-seconds: expected what 4096 shards hold"),
    ],
)
def test_bad_number_gets_one_line(capsys: pytest.CaptureFixture[str], arguments: str, expected: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments.split())
    printed = capsys.readouterr()
    assert (raised.value.code, printed.out) == (2, "")
    usage, error = printed.err.splitlines()
    assert usage.startswith("usage: ") and error.startswith(f"benchmarks.capacity: error: {expected}")


def test_plan_uses_another_machines_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ours = json.loads(Path(costs.__file__).with_name("costs.json").read_text())
    for part in ours["drain_us"].values():
        part |= {name: 10 * amount for name, amount in part.items()}
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(ours))
    assert plan(capsys, "--costs", str(file))["needs"]["workers"] > 5 * plan(capsys)["needs"]["workers"]
