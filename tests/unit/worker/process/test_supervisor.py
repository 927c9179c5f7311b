"""A supervised worker that ends again and again or must be killed; and what RQ logs of that."""

import logging
import multiprocessing
import os
import signal
import sys
import time

import pytest
from redis.exceptions import ConnectionError

from levelq_worker.process.fork import forked
from levelq_worker.process.supervisor import SupervisedWorker, warn_of_too_many
from levelq_worker.rq_adapter.worker import RedisErrorFilter
from levelq_worker.support.backoff import FIRST_SECONDS


def test_a_worker_that_always_ends_is_started_again_for_ever_at_bounded_intervals() -> None:
    child = forked(lambda: 0, "a-child")
    child.join()
    worker = SupervisedWorker(claim_seconds=2.0)
    delays = []
    for _ in range(2000):  # as many as a weekend without a Redis brings
        worker.process = child
        before = time.monotonic()
        worker.ended(finished=False)
        delays.append(worker.start_at - time.monotonic())
        assert before + FIRST_SECONDS <= worker.start_at <= time.monotonic() + 1.0
    assert not worker.done
    assert delays[1] > delays[0]


def test_a_worker_that_must_be_killed_writes_where_it_stood(capfd: pytest.CaptureFixture[str]) -> None:
    entered = multiprocessing.get_context("fork").Event()

    def stubborn_child() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        entered.set()
        signal.pause()
        return 0

    worker = SupervisedWorker(claim_seconds=2.0)
    worker.start(stubborn_child)
    assert entered.wait(60)
    assert worker.alive
    worker.dump_stacks()
    worker.kill(60)
    assert not worker.alive
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


@pytest.mark.parametrize(
    ("message", "error", "kept"),
    [
        ("Worker %s: could not connect to Redis instance: refused retrying in 2 seconds...", None, False),
        ("Worker %s: found an unhandled exception, quitting...", ConnectionError("gone"), False),
        ("Worker %s: found an unhandled exception, quitting...", ZeroDivisionError("a bug"), True),
        ("Worker %s: stopping on request", None, True),
    ],
    ids=["each attempt", "the end of Redis", "a bug", "all else"],
)
def test_of_rqs_log_only_lost_connections_are_dropped(message: str, error: Exception | None, kept: bool) -> None:
    info = (type(error), error, None) if error else None
    record = logging.LogRecord("rq.worker", logging.ERROR, "", 0, message, ("w",), info)
    assert RedisErrorFilter().filter(record) is kept
