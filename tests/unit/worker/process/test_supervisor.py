"""The supervisor's patience with a child that ends again and again, and with what RQ says about that."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time

import pytest
from redis.exceptions import ConnectionError

from levelq_worker.process.fork import forked
from levelq_worker.process.supervisor import Slot, warn_of_too_many
from levelq_worker.rq_adapter.worker import Once
from levelq_worker.support.backoff import FIRST_SECONDS


def test_a_child_that_always_ends_is_started_again_for_ever_at_bounded_intervals() -> None:
    child = forked(lambda: 0, "a-child")
    child.join()
    slot = Slot(claim_seconds=2.0)
    delays = []
    for _ in range(2000):  # as many as a weekend without a Redis brings
        slot.process = child
        before = time.monotonic()
        slot.ended(finished=False)
        delays.append(slot.start_at - time.monotonic())
        assert slot.start_at <= time.monotonic() + 1.0
        assert slot.start_at >= before + FIRST_SECONDS
    assert not slot.done
    assert delays[1] > delays[0]


def test_a_child_that_must_be_killed_says_where_it_stood(capfd: pytest.CaptureFixture[str]) -> None:
    entered = multiprocessing.get_context("fork").Event()

    def stubborn_child() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        entered.set()
        signal.pause()
        return 0

    slot = Slot(claim_seconds=2.0)
    slot.start(stubborn_child)
    assert entered.wait(60)
    assert slot.alive
    slot.dump_stacks()
    slot.kill(60)
    assert not slot.alive
    assert "in stubborn_child" in capfd.readouterr().err


@pytest.mark.parametrize(("processes", "warned"), [(1, False), (2, False), (3, True), (8, True)])
def test_more_workers_than_cores_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, processes: int, warned: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3}, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    warn_of_too_many(processes)
    expected = f"{processes} worker processes on 2 cores: more than one per core helps only where the servers are far"
    assert [record.getMessage().startswith(expected) for record in caplog.records] == [True] * warned


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    """What RQ's worker would log."""
    found = None if error is None else (type(error), error, None)
    return logging.LogRecord("rq.worker", logging.ERROR, "", 0, message, ("w",), found)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (record("Worker %s: could not connect to Redis instance: refused retrying in 2 seconds..."), False),
        (record("Worker %s: found an unhandled exception, quitting...", ConnectionError("gone")), False),
        (record("Worker %s: found an unhandled exception, quitting...", ZeroDivisionError("a bug")), True),
        (record("Worker %s: stopping on request"), True),
    ],
    ids=["each attempt", "the end of Redis", "a bug", "all else"],
)
def test_of_what_rq_says_only_the_repetitions_are_dropped(said: logging.LogRecord, kept: bool) -> None:
    assert Once().filter(said) is kept
