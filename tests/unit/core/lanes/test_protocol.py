"""The Lua files and the Python that calls them: the same arguments in the same order, and nothing else."""

import re
from hashlib import sha1
from importlib.resources import files
from typing import Any

import pytest
from redis.exceptions import ResponseError

from levelq_core import Settings
from levelq_core.keys import Partition
from levelq_core.lanes.pauses import MOST_PAUSES
from levelq_core.lanes.protocol import (
    FOUND_AMONG,
    HEADS,
    LEASE_MS,
    WAKE_MS,
    Claim,
    Lease,
    Oversized,
    Protocol,
    PushAnswer,
    Relayed,
)
from levelq_core.lanes.script_files import Call, load
from levelq_core.lanes.shard_layout import Layout

FOLDER = files("levelq_core.lanes") / "lua"
NAMES = sorted(f.name.removesuffix(".lua") for f in FOLDER.iterdir() if f.name.endswith(".lua"))
SCRIPTS = [name for name in NAMES if name != "prelude"]
REFUSED_WHEN_FULL = {"push", "relay", "trend"}  # all others must work when memory is full
PARTITION = Partition("PLAYER", 1, 3)
TAG = "levelq:{PLAYER:1:3}:"
# No two alike, so that a swapped pair shows.
SETTINGS = Settings.load(
    claim_seconds=7.5,
    batch_commands=501,
    batch_lanes=102,
    batch_bytes=10_003,
    lane_commands=54,
    lane_limit=205,
    partition_limit=306,
    payload_limit=407,
)
VALUES: dict[str, Any] = {
    "tag": TAG,
    "lane limit": 205,
    "partition limit": 306,
    "wake ms": WAKE_MS,
    "batch commands": 501,
    "batch lanes": 102,
    "batch bytes": 10_003,
    "lane commands": 54,
    "payload limit": 407,
    "claim ms": 7500,
    "drain": "a-drain",
    "token": "a-token",
    "delays": "10 0",
    "reasons": b"why\n\n",
    "how many heads to read": HEADS,
    "restored only": 1,
    "mode": "seize",
    "lease": b"a-lease",
    "lease ms": LEASE_MS,
    "idle only": 1,
    "last": 0,
    "holding": 1,
    "the next layout": "2:8<4",
    "specialization": "PLAYER",
    "the layout that is expected": "1:4",
    "the new layout": "1:4>8",
    "the database": b"{}",
    "the binding that it may replace": b"another",
    "page entries": 501,
    "page bytes": 10_003,
    "mark": "a-mark",
    "user": 5,
    "entry": b"x",
    "the command's id": b"i" * 16,
    "how many entries to read at most": FOUND_AMONG,
    "how many of the newest to leave out": 9,
    "the user": 5,
    "who": "*",
    "for how long": 60_000,
    "by whom and why": "ann|tests",
    "most pauses of one partition": MOST_PAUSES,
    "now in s": 1_764_489_600,
    "series": "20:180 600:144",
}
PROTOCOL = Protocol(SETTINGS)
KEYS = {  # of those that are not on one partition
    "relayout": "<namespace>:shards", "bind": "<namespace>:database", "trend": "<namespace>:trends"
}  # fmt: skip
CALLS: dict[str, tuple[Call, list[Any]]] = {
    "push": (PROTOCOL.push(PARTITION, [(5, [b"x", b"y"]), (6, [b"z"])]), [5, 2, b"x", b"y", 6, 1, b"z"]),
    "claim": (PROTOCOL.claim(PARTITION, "a-drain", "a-token", 501, restored_only=True, holding=True), []),
    "ack": (
        PROTOCOL.ack(PARTITION, "a-token", [(b"5", 10, b"i" * 32), (b"6", 0, b"")], {b"5": "why"}),
        [b"5", b"i" * 32, b"6", b""],
    ),
    "renew": (PROTOCOL.renew(PARTITION, "a-drain", "a-token", [b"5", b"6"]), [b"5", b"6"]),
    "yield": (PROTOCOL.yield_(PARTITION, "a-drain"), []),
    "sweep": (PROTOCOL.sweep(PARTITION), []),
    "recover": (PROTOCOL.recover(PARTITION, [b"5", b"6"]), [b"5", b"6"]),
    "lease": (PROTOCOL.lease(PARTITION, "seize", "a-token", b"a-lease"), []),
    "relay": (PROTOCOL.relay(PARTITION, b"a-lease", [(5, [b"x", b"y"])], idle_only=True), [5, 2, b"x", b"y"]),
    "restore": (PROTOCOL.restore(PARTITION, b"a-lease", [(5, [b"x"]), (6, [])], last=False), [5, 1, b"x", 6, 0]),
    "status": (PROTOCOL.status(PARTITION), []),
    "close": (PROTOCOL.close_partition(PARTITION, Layout(2, 8, previous_shards=4)), []),
    "relayout": (PROTOCOL.change_layout("PLAYER", Layout(1, 4), Layout(1, 4, next_shards=8)), []),
    "bind": (PROTOCOL.bind(b"{}", b"another"), []),
    "trend": (PROTOCOL.add_to_trends(1_764_489_600_123, ["applied", 3]), ["applied", 3]),
    "peek": (PROTOCOL.peek(PARTITION, [(b"5", 0), (b"6", 7)]), [b"5", 0, b"6", 7]),
    "tail": (PROTOCOL.tail(PARTITION, 5, b"x"), []),
    "find": (PROTOCOL.find(PARTITION, b"i" * 16, 5, newest=9), []),
    "pause": (PROTOCOL.pause(PARTITION, "*", 60_000, "ann|tests"), []),
    "withdraw": (PROTOCOL.withdraw(PARTITION, "a-mark", [(b"5", b"i" * 32)]), [b"5", b"i" * 32]),
}


def text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def code(name: str) -> str:
    """The script without its comments."""
    return "\n".join(line.partition("--")[0] for line in text(name).splitlines())


def header(name: str) -> str:
    """The comment at the head of the file, as one line."""
    lines = text(name).splitlines()[1:]
    comment = lines[: next(n for n, line in enumerate(lines) if not line.startswith("--"))]
    return " ".join(line.removeprefix("--").strip() for line in comment)


def documented_arguments(name: str) -> list[str]:
    """The documented beginning of ARGV, up to what comes once per lane or user."""
    argv = re.search(r"ARGV (.+?) Returns ", header(name))
    assert argv is not None
    fixed = re.split(r",? then ", argv[1])[0]
    return [re.sub(r" \(.*?\)", "", part).strip() for part in re.split(r",(?![^(]*\))", fixed)]


def test_every_script_has_a_call() -> None:
    assert sorted(CALLS) == SCRIPTS
    assert all(call.name == name for name, (call, _) in CALLS.items())


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_begins_with_its_legend(name: str) -> None:
    lines = text(name).splitlines()
    flags = "" if name in REFUSED_WHEN_FULL else " flags=allow-oom"
    flags += (
        ",no-writes" if name in ("status", "peek", "find", "tail") else ""
    )  # an operator must see it, whatever is full
    assert lines[0] == f"#!lua{flags}"
    assert re.fullmatch(r"-- [A-Z].+\.( .+)?|-- [A-Z].+", lines[1])
    legend = [found for line in lines if (found := re.match(r"-- (KEYS\[1\]|ARGV|Returns|Keeps:) +\S", line))]
    assert [found[1] for found in legend] == ["KEYS[1]", "ARGV", "Returns", "Keeps:"]
    assert "-- KEYS[1]  " + KEYS.get(name, 'tag .. "ready"') in text(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_arguments_are_in_the_order_of_the_legend(name: str) -> None:
    call, rest = CALLS[name]
    names = documented_arguments(name)
    assert call.args == [VALUES[argument] for argument in names] + rest
    assert call.key == KEYS.get(name, TAG + "ready").replace("<namespace>", "levelq")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_argument_is_read_by_its_script(name: str) -> None:
    count = len(documented_arguments(name))
    read = {int(n) for n in re.findall(r"ARGV\[(\d+)\]", code(name))}
    assert read == set(range(1, count + 1))


def test_claim_takes_no_more_from_one_lane_than_in_total() -> None:
    args = PROTOCOL.claim(PARTITION, "a-drain", "a-token", 9, False).args
    by_name = dict(zip(documented_arguments("claim"), args, strict=True))
    assert by_name["batch commands"] == by_name["lane commands"] == 9


def test_acknowledgement_without_delays_and_reasons_sends_none() -> None:
    lanes = [(b"5", 0, b"i" * 32), (b"6", 0, b"i" * 32)]
    assert PROTOCOL.ack(PARTITION, "a-token", lanes).args[2:] == ["", b"", b"5", b"i" * 32, b"6", b"i" * 32]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in KEYS])
def test_keys_are_built_from_the_tag(name: str) -> None:
    """Every first argument of a command is tag .. '...' or a local that was made so."""
    lua = code(name)
    made = {"lane"} if "tag .. 'lane:' .. user" in lua else set()  # also what a local function calls it
    for names, values in re.findall(r"local ([\w, ]+) = (.+)", lua):
        for local, value in zip(names.split(","), values.split(","), strict=False):
            if value.strip().startswith("tag .. '"):
                made.add(local.strip())
    if "for _, set in ipairs({ ready, claimed })" in lua:
        made.add("set")
    endless = re.findall(r"unless_endless\((.+?),", lua.replace("local function unless_endless(key,", ""))
    if endless and all(value.startswith("tag .. '") for value in endless):
        made.add("key")
    if "emptied[#emptied + 1] = lane" in lua:
        made.add("unpack(emptied")
    for command, key in re.findall(r"(?:call(?:\(|, )|unless_wrong\([^,]+, )'([A-Z]+)'(?:, ([^,)]+))?", lua):
        if command not in ("TIME", "INFO"):
            assert key.startswith("tag .. '") or key in made, f"{command} {key}"
    assert "levelq:" not in lua
    assert "KEYS" not in lua
    assert "cjson" not in lua


def test_stamp_has_the_digits_that_the_codec_reads() -> None:
    assert "'%013.0f'" in text("push")
    assert all(
        "local SIZE, FROM = 32, 18" in text(name) for name in ("ack", "withdraw")
    )  # codec.IDENTITY_BYTES, codec.IDENTITY_AT + 1
    assert all("payload_limit + 13" in text(name) for name in ("claim", "peek"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_loaded_once_with_the_prelude_behind_its_first_line(name: str) -> None:
    script = load(name)
    assert load(name) is script
    assert script.sha == sha1(script.text.encode()).hexdigest()
    first, _, rest = text(name).partition("\n")
    assert first.startswith("#!lua")
    assert script.text == first + "\n" + text("prelude") + rest


def test_replies_are_read() -> None:
    pushed = Protocol.pushed([1, [2, b"", 0, b"lane"], b"1700000000000"])
    assert pushed == PushAnswer(True, [(2, ""), (0, "lane")])
    assert isinstance(pushed, PushAnswer) and pushed.at_ms == 1_700_000_000_000
    assert Protocol.pushed([0, [], b"1700000000000"]) == PushAnswer(False, [])
    assert Protocol.pushed([b"MOVED"]) == PushAnswer(False, [], moved=True)
    error = ResponseError("OOM")
    assert Protocol.pushed(error) is error
    claim = Protocol.claimed([1, 0, [b"9"], [b"5", [b"one", [5000, b"ab" * 20, b"head"]], b"6", []], 7, [b"6"], 4])
    assert claim.lanes == [(b"5", [b"one", Oversized(5000, "ab" * 20, b"head")]), (b"6", [])]
    assert (claim.wake, claim.retired, claim.broken, claim.blocked, claim.at_ms) == (True, False, [b"9"], False, 7)
    assert claim.parked == {b"6"} and claim.returned == 4
    assert Protocol.claimed([b"BLOCKED"]) == Claim([], wake=False, retired=False, broken=[], blocked=True)


def test_replies_to_the_relay_are_read() -> None:
    assert Protocol.leased([0, b"x", 0, 0]) == Lease(
        is_holder=False, newly_acquired=False, value=b"x", restored=False, claimed=0
    )
    assert Protocol.leased([1, b"x", 1, 3]) == Lease(
        is_holder=True, newly_acquired=True, value=b"x", restored=True, claimed=3
    )
    assert Protocol.leased([2, b"x", 0, 0]) == Lease(
        is_holder=True, newly_acquired=False, value=b"x", restored=False, claimed=0
    )
    for read in (Protocol.relayed, Protocol.restored):
        assert read([b"LOST"]) == Relayed(True, False, [])
    assert Protocol.relayed([1, [2, b"", 0, b"busy"]]) == Relayed(False, True, [(2, ""), (0, "busy")])
    assert Protocol.restored([0, [2, 0]]) == Relayed(False, False, [(2, ""), (0, "")])
