"""A worker whose clock jumps by a day: claims go by the server's clock, so no other process notices."""

import time
from pathlib import Path

import psutil

from levelq.server_account import temporary_folder
from tests.acceptance.servers.kit.site import Site
from tests.acceptance.servers.kit.workers import Fleet, Workers
from tests.support.fixtures.waiting import until
from tests.system.machine import faked, run

DAY_SECONDS = 86_400


def test_a_clock_that_jumps_steals_no_claim() -> None:
    with temporary_folder("levelq-faults-") as folder, Site(folder) as site:
        clock = site.folder / "clock"
        clock.write_text("+0")
        with site.scene(Fleet(site.settings, environment=faked(clock)), Fleet(site.settings)) as scene:
            assert is_faked(scene.fleets[0]) and not is_faked(scene.fleets[1])
            for jump in (DAY_SECONDS, -DAY_SECONDS):
                with scene.fault(f"worker's clock {jump:+} s"):
                    clock.write_text(f"{jump:+}")
                    until(lambda jump=jump: abs(shown_by(clock) - time.time() - jump) < 60, what="the jump")  # type: ignore[misc]
                    scene.goes_on(1.25 * site.settings.claim_seconds)  # a second until a process looks at the file
            scene.fleets[1].stop()
            assert scene.finish().broken == set()
            assert "claims of a dead or stopped worker" not in scene.log


def is_faked(workers: Workers) -> bool:
    """Whether a worker process has another clock."""
    (child,) = workers.children()
    return any("libfaketime" in library.path for library in psutil.Process(child.pid).memory_maps())


def shown_by(clock: Path) -> float:
    """What a process with this clock believes."""
    return float(run("env", *(f"{name}={value}" for name, value in faked(clock).items()), "date", "+%s"))
