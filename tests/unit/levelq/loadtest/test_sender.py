from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from levelq.loadtest.arrivals import Arrival
from levelq.loadtest.sender import SenderProcess, Task
from levelq_core import ConfigurationError, Settings


class Broken:
    """A schedule that cannot be made."""

    def arrivals(self, thread: int, threads: int) -> list[Arrival]:
        raise ValueError(f"no arrivals for {thread} of {threads}")


class Nothing:
    """A schedule without a send."""

    def arrivals(self, thread: int, threads: int) -> list[Arrival]:
        return []


def task(schedule: Any, folder: Path, threads: Iterable[int] = (0,)) -> Task:
    records = [(thread, folder / f"sends-{thread}.jsonl") for thread in threads]
    return Task(schedule, records, 7, 1, 1, Settings.load())


def test_word_to_a_process_that_died_is_dropped_and_its_result_is_the_reason(tmp_path: Path) -> None:
    with SenderProcess(task(Broken(), tmp_path), tmp_path / "sender-0.log") as sender:
        with pytest.raises(ConfigurationError, match=r"sender-0 failed; its log ends with: .*no arrivals for 0 of 7"):
            sender.await_ready()
        sender.send("stop")
        with pytest.raises(ConfigurationError, match="sender-0 failed"):
            sender.result()


def test_process_that_has_sent_everything_is_done_and_names_no_errors(tmp_path: Path) -> None:
    with SenderProcess(task(Nothing(), tmp_path), tmp_path / "sender-0.log") as sender:
        sender.await_ready()
        assert not sender.done
        sender.send(0.0)
        assert sender.result() == {} and sender.done
        assert sender.counts.total() == 0
