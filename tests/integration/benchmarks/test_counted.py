"""The worker of `make scaling` that counts its claims."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.scaling import counted
from levelq_core import LevelUp, Settings
from levelq_producer import Producer
from tests.support.fixtures.processes import Started


def test_counting_worker_drains_and_leaves_its_counts(
    settings: Settings, start: Callable[..., Started], tmp_path: Path
) -> None:
    with Producer(settings) as producer:
        producer.send_many(LevelUp(user_id=1 + n % 5, specialization="PLAYER", xp_gained=1) for n in range(20))
    worker = start("worker", "--burst", module="benchmarks.scaling.counted", **{counted.FOLDER: str(tmp_path)})
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    counts = counted.read(tmp_path)
    assert (counts["entries"], counts["lanes"], counts["lost"]) == (20, 5, 0)
    assert counts["claims"] >= counts["batches"] >= 1
