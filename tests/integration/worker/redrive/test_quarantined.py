"""`levelq quarantine`: what is kept of an entry is shown; what this version can read is sent, the rest says why not."""

import json
from hashlib import sha256
from typing import Any

import pytest

from levelq_core.domain.codec import encode
from tests.support.fixtures.command_line import Levelq
from tests.support.redrive import put_into_quarantine, stamped
from tests.support.system import System, up


def retry(levelq: Levelq, *arguments: object) -> list[tuple[str, str]]:
    """`levelq quarantine retry --json`: verdict and reason of each entry, oldest first."""
    code, out, err = levelq("quarantine", "retry", "--yes", "--json", *arguments)
    found = [(one["verdict"], one["why"]) for one in json.loads(out)["entries"]]
    assert (err, code) == ("", 1 if {"refused", "left"} & {verdict for verdict, _ in found} else 0)
    return found


def test_entries_that_can_be_read_now_are_sent_under_their_own_ids(system: System, levelq_here: Levelq) -> None:
    first, second = up(1, 5), up(2, 6)
    put_into_quarantine(system, 1, stamped(encode(first)))
    put_into_quarantine(system, 2, encode(second))  # a row of the outbox
    assert [verdict for verdict, _ in retry(levelq_here, "--dry-run")] == ["send", "send"]
    assert [verdict for verdict, _ in retry(levelq_here)] == ["sent", "sent"]
    system.drain()
    assert system.rows("SELECT command_id, status FROM levelq_ledger ORDER BY user_id") == [
        (first.command_id, "applied"), (second.command_id, "applied"),
    ]  # fmt: skip
    assert system.rows("SELECT FROM levelq_quarantine") == [] and levelq_here("quarantine", "list").out.startswith(
        "no "
    )
    ((action, detail),) = system.rows("SELECT action, detail FROM levelq_audit")
    assert action == "quarantine retry" and detail["entries"][0]["command_id"] == str(first.command_id)


@pytest.mark.parametrize(
    ("user", "raw", "length", "why"),
    [
        (None, stamped(encode(up(1))), None, "no user is known"),
        (1, stamped(encode(up(1)))[:50], 100, "only the first 50 of its 100 bytes are kept"),
        (2, stamped(encode(up(1))), None, "the digest does not match"),
        (1, b"garbage\x1b[2J", None, "not a levelq entry"),
        (1, stamped(b"LQ\x63" + encode(up(1))[3:]), None, "encoding version 99"),
        (1, stamped(encode(up(1, specialization="PLAYER", theory_hours=1))), None, "PLAYER does not track hours"),
    ],
    ids=["no user", "cut", "another lane's", "garbage", "newer", "never allowed"],
)
def test_entry_that_cannot_be_sent_says_why_and_stays(
    user: int | None, raw: bytes, length: int | None, why: str, system: System, levelq_here: Levelq
) -> None:
    put_into_quarantine(system, user, raw, length=length)
    ((verdict, found),) = retry(levelq_here, "--force")
    assert verdict == "refused" and why in found
    code, out, _ = levelq_here("quarantine", "show", 1)
    assert code == 0 and sha256(raw).hexdigest() in out and why in out and "\x1b" not in out
    assert raw[:16].hex(" ") in out
    assert len(json.loads(levelq_here("quarantine", "list", "--json").out)["entries"]) == 1


def test_newer_commands_of_the_lane_are_not_overtaken_unless_forced(system: System, levelq_here: Levelq) -> None:
    put_into_quarantine(system, 1, stamped(encode(up(1))))
    put_into_quarantine(system, 2, stamped(encode(up(2))))
    system.producer.send(up(1))
    system.drain()
    system.producer.send(up(2))
    expected = ["applied since, or in the same batch", "other commands wait in its lane"]
    for (verdict, why), begin in zip(retry(levelq_here), expected, strict=True):
        assert verdict == "refused" and begin in why
    assert [verdict for verdict, _ in retry(levelq_here, "--force")] == ["sent", "sent"]


def test_decided_command_is_not_sent_again(system: System, levelq_here: Levelq) -> None:
    command = up(1)
    system.producer.send(command)
    system.drain()
    put_into_quarantine(system, 1, stamped(encode(command)))
    assert retry(levelq_here, "--force") == [("refused", "its command was decided: applied; discard it")]


def test_malformed_entries_of_a_drain_are_listed_shown_and_discarded(system: System, levelq_here: Levelq) -> None:
    for payload in (b"\x00\xffrubbish\x1b]0;x\x07", b"LQ" + b"\x01" * 60, b"x" * 10_000):
        system.push_raw(7, payload)
    system.drain()
    rows = json.loads(levelq_here("quarantine", "list", "--user", 7, "--json").out)["entries"]
    assert [(row["id"], row["length"]) for row in rows] == [(3, 10_013), (2, 75), (1, 28)]
    assert json.loads(levelq_here("quarantine", "list", "--reason", "PAYLOAD", "--json").out)["entries"] == rows[:1]
    shown = levelq_here("quarantine", "show", 1, 2, 99)
    assert "no quarantined entry 99" in shown.err and "\x1b" not in shown.out
    assert levelq_here("quarantine", "discard", 99, "--yes", "--json") == (2, "", "no quarantined entry 99\n")
    assert "ubbish.]0;x." in shown.out and "version  1" in shown.out
    code, _, err = levelq_here("quarantine", "discard", 1)
    assert (code, "--yes" in err) == (2, True)
    assert levelq_here("quarantine", "discard", 1, 2, "--yes").out.endswith("2 quarantined entries discarded\n")
    ((action, target, detail),) = system.rows("SELECT action, target, detail FROM levelq_audit")
    assert (action, target) == ("quarantine discard", "user 7 PLAYER")
    named: list[dict[str, Any]] = [{key: row[key] for key in ("id", "length", "sha256")} for row in rows[:0:-1]]
    assert detail == {"discarded": 2, "entries": named}
    assert json.loads(levelq_here("quarantine", "discard", "--dry-run", "--json").out)["matched"] == 1
