"""The log of `levelq worker`: text or JSON, a line for each batch at debug, nothing while idle."""

import json
from typing import Any

import pytest

from levelq_core import Adjust, Settings
from tests.support.fixtures.command_line import Levelq, python
from tests.support.system import System, up

BATCH = {
    "event": "batch", "level": "debug", "logger": "levelq", "partition": "PLAYER:1:0",
    "commands": 4, "applied": 2, "rejected": 1, "duplicates": 1, "parked": 0, "quarantined": 1,
}  # fmt: skip
REASON = "because of the user"

# What a worker's process logs, and other libraries in it.
PROGRAM = """
import logging
from math import nan
from rq.logutils import setup_loghandlers
from levelq_core import Settings
from levelq_core.log_events import log_event
from levelq_worker.support.safe_log import log_safely

log_safely(Settings.load())
setup_loghandlers("WARNING")
logging.getLogger("rq.worker").warning("Job %s lost", "\\x1b[31mx")
logging.getLogger("rq.worker").info("heartbeat")
logging.getLogger("sqlalchemy.engine").info("SELECT")
log_event(logging.WARNING, "claims_returned", "%(partition)s: %(claims)d claims", partition="PLAYER:1:0", claims=2)
log_event(logging.WARNING, "of_another", "no number", n=nan)
log_event(logging.INFO, "quiet", "not shown")
"""


def lines_of(err: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in err.splitlines()]


def test_worker_logs_each_batch_at_debug_and_nothing_while_idle(system: System, levelq: Levelq) -> None:
    debug = {"LEVELQ_LOG_FORMAT": "json", "LEVELQ_LOG_LEVEL": "DEBUG"}
    assert levelq("worker", "--burst", **debug).err == ""
    command = up(1, reason=REASON)
    too_much = Adjust(user_id=1, specialization="PLAYER", xp_change=-1_000_000, reason=REASON)
    system.push(command, command, up(1, 5, reason=REASON), too_much)
    system.push_raw(1, b"rubbish" + REASON.encode())
    code, _, err = levelq("worker", "--burst", **debug)
    quarantined, batch = lines_of(err)
    assert code == 0 and {name: batch.get(name) for name in BATCH} == BATCH
    assert 0 < batch["transaction_ms"] < batch["ms"] and batch["time"].endswith("Z") and batch["process"] > 0
    assert batch["message"].startswith("PLAYER:1:0: 4 commands in ")
    assert (quarantined["event"], quarantined["level"], quarantined["entries"]) == ("entries_quarantined", "error", 1)
    assert REASON not in err


def test_text_is_the_default_and_only_warnings_are_logged(system: System, levelq: Levelq) -> None:
    system.push(up(1))
    assert levelq("worker", "--burst").err == ""
    system.push(up(1))
    (line,) = levelq("worker", "--burst", LEVELQ_LOG_LEVEL="debug").err.splitlines()
    assert " DEBUG PLAYER:1:0: 1 commands in " in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_of_rq_and_other_libraries_have_the_same_format(settings: Settings, form: str) -> None:
    code, _, err = python("-c", PROGRAM, LEVELQ_LOG_FORMAT=form)
    assert code == 0
    if form == "text":
        texts = [line.split(" ", 3)[3] for line in err.splitlines()]
        assert texts == ["WARNING Job \\x1b[31mx lost", "WARNING PLAYER:1:0: 2 claims", "WARNING no number"]
    else:
        rq, own, other = lines_of(err)
        assert other["n"] == "nan"  # JSON has no such number
        assert (rq["logger"], rq["level"], rq["message"]) == ("rq.worker", "warning", "Job \\x1b[31mx lost")
        assert "event" not in rq
        assert (own["event"], own["partition"], own["claims"]) == ("claims_returned", "PLAYER:1:0", 2)
        assert own["message"] == "PLAYER:1:0: 2 claims"


def test_application_that_configures_logging_keeps_its_own(caplog: pytest.LogCaptureFixture, system: System) -> None:
    """Events are ordinary records: message, and fields as attributes."""
    caplog.set_level("DEBUG", "levelq")
    system.push(up(1))
    system.drain()
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "batch"]
    assert (record.name, record.applied, record.partition) == ("levelq", 1, "PLAYER:1:0")  # type: ignore[attr-defined]
    assert record.getMessage().startswith("PLAYER:1:0: 1 commands in ")
