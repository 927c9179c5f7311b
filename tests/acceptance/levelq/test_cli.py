"""The real command line in processes of its own, against real servers."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis

from levelq_core import Settings
from levelq_core.keys import Partition
from levelq_core.lanes.pauses import pause_of
from levelq_producer import Producer
from tests.support.fixtures.command_line import Levelq, python
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until

PLAYER = Partition("PLAYER")


def test_command_goes_through_the_queue_and_into_the_history(levelq: Levelq, levelq_here: Levelq) -> None:
    sent = levelq("send", "level-up", 42, "player", "--xp", 2600, "--sessions", 3, "--reason", "Won", "--no-wait")
    assert sent.code == 0
    (command_id,) = re.findall(r"^queued  ([0-9a-f-]{36})\n$", sent.out)
    assert levelq("send", "set_level", 42, "PLAYER", "--level", 2, "--xp", -5000, "--no-wait").code == 0
    before = levelq_here.status()
    assert (before["workers"], before["rejected"], before["quarantined"]) == (0, 0, 0)
    rows = {row["partition"]: row for row in before["partitions"]}
    assert set(rows) == {"COACH:1:0", "INTERNSHIP:1:0", "PLAYER:1:0"}
    player = rows["PLAYER:1:0"]
    assert player.pop("oldest_seconds") > 0
    assert player == {
        "partition": "PLAYER:1:0", "specialization": "PLAYER", "waiting": 2, "ready": 1, "claimed": 0, "parked": 0,
    }  # fmt: skip
    shown = levelq_here("status")
    assert "wrong  PLAYER:1:0: 2 commands waiting and no worker serves it: levelq worker -s PLAYER\n" in shown.out

    assert levelq("worker", "--burst").code == 0
    assert levelq_here.status()["rejected"] == 1
    shown = levelq_here("history", 42)
    assert (shown.code, shown.err) == (0, "")
    newest, _, oldest = shown.out.partition("level_up")
    assert "rejected: total_xp: 2600" in " ".join(newest.split()) and "-5,000" in newest
    assert "+2,600" in oldest and "1 -> 3" in oldest and "applied" in oldest
    assert command_id in levelq_here("history", 42, "--ids").out
    assert levelq_here("history", 42, "--limit", 1).out.count("PLAYER") == 2  # with the levels now
    assert levelq_here("history", 43).out == "User 43: nothing was decided yet, or the ledger no longer keeps it.\n"


def test_adjust_and_reset_go_through_the_queue_and_into_the_history(levelq: Levelq, levelq_here: Levelq) -> None:
    for arguments in (
        "level-up 42 PLAYER --xp 2600", "adjust 42 PLAYER --xp -300 --level earned --reason refund",
        "adjust 42 PLAYER --xp 5000", "reset 42 PLAYER --xp 1500 --level 3", "reset 42 PLAYER",
        "set-level 42 PLAYER --level 2",
    ):  # fmt: skip
        assert levelq_here("send", *arguments.split(), "--no-wait").code == 0
    assert levelq("worker", "--burst").code == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in levelq_here("history", 42).out.splitlines()]
    shown = [line.partition("PLAYER ")[2] for line in lines if "PLAYER" in line]
    assert shown == [
        "level 2, highest 3, 0 XP",
        "set_level - 1 -> 2 applied", "reset = 0 3 -> 1 applied", "reset = 1,500 2 -> 3 applied",
        "adjust +5,000 2 applied", 'adjust -300 3 -> 2 applied; "refund"', "level_up +2,600 1 -> 3 applied",
    ]  # fmt: skip
    assert levelq_here("check").code == 0 and levelq_here("verify", "--at-rest").code == 0


def test_send_waits_for_the_outcome(
    levelq: Levelq, levelq_here: Levelq, start: Callable[..., Started], redis: Redis
) -> None:
    start("worker")
    code, out, err = levelq("send", "level-up", 7, "COACH", "--xp", 1200, "--theory-hours", 2, "--timeout", 30)
    assert code == 0 and out.startswith("applied  COACH of user 7: level 1 -> 2\n")
    assert re.search(r"total_xp +0 -> 1,200", out) and re.search(r"theory_hours +0 -> 2", out)
    command_id = err.split()[-1]
    reply = KEYS.reply(UUID(command_id).bytes)  # the first send's, which would answer the second; it comes after the
    until(lambda: redis.delete(reply), what="the first reply")  # decision, which a sender may read from the ledger
    same = ("level-up", 7, "COACH", "--xp", 1200, "--theory-hours", 2, "--command-id", command_id)
    again = levelq("send", *same, LEVELQ_DATABASE_URL="")  # so that a worker answers, not the ledger
    assert again.code == 0 and "(decided at an earlier send)" in again.out
    rejected = levelq_here("send", "set-level", 7, "COACH", "--level", 2, "--sessions", -1)
    assert rejected[:2] == (1, "rejected  COACH of user 7: completed_sessions: 0 -1 would go below zero\n")
    synced = levelq_here("send", "sync", 7, "COACH", "--source", "license")
    assert synced.code == 0 and synced.out.startswith("applied  COACH of user 7: ")
    assert levelq_here.status()["workers"] == 1


def test_send_without_a_worker_reports_that_in_time(levelq: Levelq) -> None:
    line = levelq.refused("send", "level-up", 1, "PLAYER", "--xp", 1, "--timeout", 0.1)
    assert re.search(
        r"command [0-9a-f-]{36} was not decided within 0.1 s; it is queued in PLAYER:1:0, which no worker", line
    )


def test_malformed_entry_is_counted_and_shown_without_its_control_characters(levelq: Levelq, redis: Redis) -> None:
    redis.rpush(KEYS.lane(PLAYER, 42), b"\x1b[31m[bold]garbage")
    redis.zadd(KEYS.of(PLAYER, "ready"), {"42": 0})
    assert levelq("worker", "--burst").code == 0
    assert levelq.status()["quarantined"] == 1
    code, out, _ = levelq("history", 42)
    assert code == 0 and "quarantined: " in out and "\x1b" not in out
    assert r"b'\x1b[31m[bold]garbage'" in "".join(out.split())


def test_narrow_terminals_get_every_word(levelq: Levelq, levelq_here: Levelq) -> None:
    assert levelq_here("send", "level-up", 42, "INTERNSHIP", "--xp", 20000, "--no-wait").code == 0
    assert levelq("worker", "--burst").code == 0
    expected = {"status": ("INTERNSHIP:1:0", "Claimed"), "history 42": ("INTERNSHIP", "1 -> 3", "+20,000")}
    for columns, (command, words) in itertools.product((40, 60, 80), expected.items()):
        out = levelq(*command.split(), COLUMNS=str(columns)).out
        assert max(map(len, out.splitlines())) <= columns
        assert all(word in out for word in words)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(settings: Settings, redis: Redis, closed: str) -> None:
    command = ["sh", "-c", f"{sys.executable} -m levelq pause PLAYER {closed}"]
    done = subprocess.run(command, env=os.environ | settings.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert pause_of(redis, KEYS, PLAYER) is not None


def test_reader_that_closes_stdout_gets_no_error(levelq: Levelq, settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "levelq", "catalog"],
        env=os.environ | settings.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("typer", "--help", "worker"),
        ("rich", "--help", "worker"),
        ("sqlalchemy", "check", "worker"),
        ("starlette", "console", "console"),
        ("itsdangerous", "console", "console"),
        ("uvicorn", "console", "console"),
    ],
)
def test_missing_library_is_named_with_the_extra_that_installs_it(missing: str, command: str, extra: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from levelq.cli import main; sys.exit(main())"
    said = f"levelq: {missing} is not installed: pip install 'levelq[{extra}]'\n"
    assert python("-c", program, command) == (2, "", said)


@pytest.mark.parametrize("module", ["levelq", "levelq_worker"])
def test_module_runs_the_command_line(module: str) -> None:
    code, out, _ = python("-m", module, "--version")
    assert re.fullmatch(r"levelq \d+\.\d+\.\d+\S*\n", out) and code == 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children obey Ctrl-C even if the tests' own parent ignores it, as a shell's background jobs do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible", "unmeasured")
def test_ctrl_c_ends_quietly(start: Callable[..., Started], redis: Redis) -> None:
    sending = start("send", "level-up", "1", "PLAYER", "--xp", "1", "--timeout", "60")
    until(lambda: redis.info("clients")["blocked_clients"], what="a sender that waits for its outcome")
    sending.send_signal(signal.SIGINT)
    assert (sending.communicate(timeout=30)[0], sending.returncode) == ("", 130)


def exported(process: Started, lines: int = 2) -> dict[str, str]:
    """The settings of the `export` lines of `levelq up`, once it is up."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        if match := re.match(r"export (LEVELQ_\w+)=(.*)", line):
            found[match[1]] = match[2].strip("'")
        if len(found) == lines:
            return found
    pytest.fail(f"levelq up ended with {process.wait()}")


@pytest.mark.usefixtures("interruptible", "unmeasured")
def test_up_keeps_its_data_its_urls_and_its_folder_to_itself(
    start: Callable[..., Started], levelq: Levelq, levelq_here: Levelq, server_folder: Path
) -> None:
    data = str(server_folder / "data")
    up = start("up", "--data", data)
    urls = exported(up)
    assert levelq_here("send", "level-up", 42, "PLAYER", "--xp", 1000, "--no-wait", **urls).code == 0
    assert levelq("worker", "--burst", **urls).code == 0
    assert levelq_here("send", "level-up", 42, "PLAYER", "--xp", 500, "--no-wait", **urls).code == 0
    in_use = f"levelq: --data {data}: in use by a `levelq up` (process {up.pid}); "
    assert levelq.refused("up", "--data", data).startswith(in_use)
    up.send_signal(signal.SIGINT)
    assert up.communicate(timeout=60)[0].endswith(f"Stopped. The data stays in {data}.\n")
    assert up.returncode == 0
    assert not Path(urls["LEVELQ_REDIS_URL"].removeprefix("unix://")).exists()

    up = start("up", "--data", data, "--fsync")
    again = exported(up, lines=3)
    assert again == urls | {"LEVELQ_DURABILITY": "fsync"}
    assert levelq_here("send", "level-up", 43, "COACH", "--xp", 1, "--no-wait", **again).code == 0
    assert "1 -> 2" in levelq_here("history", 42, **urls).out
    waiting = {row["specialization"]: row["waiting"] for row in levelq_here.status(**urls)["partitions"]}
    assert waiting["PLAYER"] == 1
    up.terminate()
    up.communicate(timeout=60)
    assert up.returncode == 0


def test_up_notices_that_a_server_died(start: Callable[..., Started], server_folder: Path) -> None:
    up = start("up", "--data", str(server_folder / "data"))
    with Redis.from_url(exported(up)["LEVELQ_REDIS_URL"]) as redis:
        redis.shutdown(nosave=True)
    out = up.communicate(timeout=60)[0]
    assert up.returncode == 2 and out.splitlines()[-1].startswith("levelq: valkey has ended by itself; ")


def test_up_explains_why_a_folder_cannot_be_used(levelq: Levelq, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "File exists; give a folder that can be written" in levelq.refused("up", "--data", tmp_path / "file")


@pytest.mark.parametrize("command", [("cancel", 7, "PLAYER"), ("purge",), ("forget", 7)], ids=lambda c: c[0])
def test_command_that_erases_refuses_without_a_terminal_and_without_yes(
    levelq: Levelq, levelq_here: Levelq, settings: Settings, redis: Redis, command: tuple[object, ...]
) -> None:
    with Producer(settings) as producer:
        producer.level_up(7, "PLAYER", 5)
    lane = KEYS.lane(PLAYER, 7)
    code, out, err = levelq(*command)
    assert (code, err.count("\n")) == (2, 1) and "use --yes in scripts" in err
    assert "1 command in lanes" in out and redis.llen(lane) == 1
    assert levelq_here(*command, "--yes").code == 0
    assert redis.llen(lane) == 0
