"""The auditor: how long an audit of many pairs takes, and what it costs a drain beside it.

    .venv/bin/python -m benchmarks.audit [--pairs 1000000] [--repeats 5]

First one audit alone. Then drains with an audit beside them, and with audits off, in turn: the ratios of the
rates and of the processor time for one command (workers, Redis and PostgreSQL together).
"""

from __future__ import annotations

import time
from statistics import median

from levelq_worker.auditor import Auditor

from .command import options, temporary_site
from .drain import Drained, Parts, drain
from .rivals.levelq import Levelq
from .site import Site
from .workload import Workload

WORKLOAD = Workload("audit", 30_000, 150_000, every=10)
AUDITS = {"off": "0", "on": "1"}  # LEVELQ_DRIFT_SECONDS: an audit begins a second after the workers


def alone(site: Site, pairs: int) -> str:
    """Audit this many pairs once, at the auditor's own rate."""
    site.reset(pairs)
    auditor, parts = Auditor(site.settings), Parts(site, [])
    before, spent, begun = parts.seconds(), time.process_time(), time.monotonic()
    report = auditor.audit()
    seconds, own = time.monotonic() - begun, time.process_time() - spent
    server = sum(parts.seconds().values()) - sum(before.values())
    auditor.stop()
    assert report is not None and report.compared == pairs, report
    return f"{pairs:,} pairs in {seconds:.0f} s; processor time {own:.1f} s, servers {server:.1f} s"


def beside(site: Site, repeats: int) -> dict[str, list[Drained]]:
    """Drains with audits and without, in turn."""
    found: dict[str, list[Drained]] = {name: [] for name in AUDITS}
    for _ in range(repeats):
        for name, seconds in AUDITS.items():
            site.redis.delete(site.settings.keys.drift)
            found[name].append(drain(site, Levelq(LEVELQ_DRIFT_SECONDS=seconds), WORKLOAD))
            if name == "on":
                assert site.redis.exists(site.settings.keys.drift), "no range was audited"
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with temporary_site() as site:
        print(alone(site, given.pairs), flush=True)
        found = beside(site, given.repeats)
    for name, drained in found.items():
        each = [sum(one.parts.values()) for one in drained]
        print(f"audits {name:3}  {median(d.rate for d in drained):8,.0f}/s  {median(each):6.1f} us for one command")
    pairs = list(zip(found["on"], found["off"], strict=True))
    rates = [on.rate / off.rate for on, off in pairs]
    costs = [sum(on.parts.values()) / sum(off.parts.values()) for on, off in pairs]
    for name, ratios in (("rate", rates), ("processor time for one command", costs)):
        listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"with an audit to without: {name} {median(ratios):.3f} ({listed})", flush=True)


if __name__ == "__main__":
    main()
