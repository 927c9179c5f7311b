"""The fault kit: a real worker process dies where the test says, and another one finishes exactly once."""

from __future__ import annotations

import pytest

from levelq import InvalidArgument, Producer, Settings
from levelq.testing import WORKER_POINTS, BurstWorker, worker_dying_at
from levelq_core.failpoints import POINTS
from tests.architecture.sources import ROOT


@pytest.mark.parametrize("point", ["commit request", "commit reply"])
def test_command_counts_once_though_the_worker_dies(
    levelq_settings: Settings, levelq_producer: Producer, levelq_worker: BurstWorker, point: str
) -> None:
    with worker_dying_at(point, levelq_settings):
        handle = levelq_producer.level_up(42, "PLAYER", 1500)
    levelq_worker.drain()
    after = handle.result().after
    assert after is not None and after.total_xp == 1500


@pytest.mark.parametrize("wrong", ["before_commit", "push request"])
def test_point_that_no_worker_passes_is_refused_and_the_names_are_listed(levelq_settings: Settings, wrong: str) -> None:
    listed = rf"expected one of .*'commit request', .*got '{wrong}'"
    with pytest.raises(InvalidArgument, match=listed), worker_dying_at(wrong, levelq_settings):
        pass


def test_point_that_is_not_passed_in_time_is_an_error(levelq_settings: Settings) -> None:
    late = r"none passed 'ack reply' within 0\.1 s"
    with pytest.raises(AssertionError, match=late), worker_dying_at("ack reply", levelq_settings, timeout=0.1):
        pass


def test_worker_that_cannot_start_is_an_error_with_its_output(
    levelq_settings: Settings, blank_database_url: str
) -> None:
    settings = levelq_settings.model_copy(update={"database_url": blank_database_url})
    ended = "ended with 2 before 'begin': levelq: table specialization_progress does not exist"
    with pytest.raises(AssertionError, match=ended), worker_dying_at("begin", settings):
        pass


def test_error_of_the_block_passes_through(levelq_settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), worker_dying_at("begin", levelq_settings):
        raise ZeroDivisionError


def test_page_lists_every_point_of_a_worker() -> None:
    page = (ROOT / "docs" / "how-to" / "test-your-application.md").read_text()
    _, _, table = page.partition("| point |")
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    assert [name for row in rows for name in row.split("`")[1::2]] == list(WORKER_POINTS)
    assert set(POINTS) - set(WORKER_POINTS) == {"push request", "push reply"}
