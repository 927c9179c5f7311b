"""benchmarks/trials: problems in a system under load are found with the runbook's command, and ended as documented."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.command import temporary_site
from benchmarks.trials.__main__ import BY_NAME, run
from benchmarks.trials.system import System


@pytest.fixture(scope="module")
def small_system() -> Iterator[System]:
    with temporary_site() as site, System(site, rate=50, users=100, pairs=1_000) as system:
        yield system


@pytest.mark.timeout(400)  # on a busy machine a command takes seconds
@pytest.mark.parametrize("name", ["rejections", "hot-user"])
def test_planted_problem_is_found_with_one_command_and_ended_as_documented(small_system: System, name: str) -> None:
    run(small_system, BY_NAME[name])
