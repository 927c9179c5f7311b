"""The outcome of a load test: everything that the summary and the report show."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from levelq.laboratory.environment import Environment
from levelq.laboratory.percentiles import Percentiles
from levelq.laboratory.sampler import Sample, Sampler
from levelq_core.operations.verify import Report
from levelq_core.redis_client.topology import servers_of
from levelq_core.redis_client.url_options import redacted

from .options import LoadTestOptions
from .timing import CommandTiming, Figures

_LATE_SECONDS = 0.05  # senders whose p99 is later than this distort the measurement
_PACKAGES = ("levelq", "redis", "rq", "psycopg", "sqlalchemy")


@dataclass(frozen=True)
class Result:
    """One run that has ended."""

    options: LoadTestOptions
    started: float
    ended: float
    counts: Counter[str]
    errors: dict[str, str]  # of sends, the first of each kind
    timings: Sequence[CommandTiming]
    figures: Figures
    samples: Sequence[Sample]
    applied: int
    level_ups: int
    report: Report
    facts: dict[str, str]
    interrupted: bool
    marks: Sequence[tuple[float, str]] = ()  # what happened, in seconds after the start
    paced: bool = True  # else everything was sent as fast as it could be

    @property
    def passed(self) -> bool:
        """Whether something was queued, all of it decided, and the checker found nothing."""
        return not self.report.violations and not self.figures.undecided and self.figures.queued > 0

    @property
    def rejected(self) -> int:
        """How many commands were decided and not applied."""
        return self.figures.waits.size - self.applied

    @property
    def latencies(self) -> list[tuple[str, Percentiles]]:
        """The rows of the table of latencies."""
        figures = self.figures
        return [
            ("from its intended time to its commit", figures.waits),
            ("from its actual send to its commit", figures.closed),
            ("of these, the send until it is queued", figures.pushes),
            ("from its intended time to its send", figures.late),
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know first."""
        figures, counts, found = self.figures, self.counts, []
        if figures.undecided:
            found.append(f"{figures.undecided:,} queued commands were not decided in time: no latency counts them")
        if not figures.queued:
            found.append("nothing could be queued")
        for kind, text in self.errors.items():
            found.append(f"{counts['refused']:,} sends refused, {counts['unknown']:,} unanswered; first {kind}: {text}")
        late = figures.late.p99
        if self.paced and late > _LATE_SECONDS and late > 2 * figures.pushes.longest:  # else a push held them up
            found.append(
                f"the senders themselves were late, by {late:.2f} s for one command in a hundred: "
                "more --senders, a lower --rate, or another machine for them"
            )
        if self.interrupted:
            found.append("interrupted: these are the figures until then")
        return found


def facts(environment: Environment, sampler: Sampler) -> dict[str, str]:
    """Machine, versions and settings, for comparing two reports."""
    settings, processes = environment.settings, environment.workers.processes
    with environment.engine.connect() as connection:
        postgres = str(connection.exec_driver_sql("SHOW server_version").scalar_one())
    servers = servers_of(environment.redis)
    server: Any = servers[0].info("server")
    redis = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {server['redis_version']}"
    urls = {"redis_url", "rq_url", "database_url", "listen_url"}
    changed = [
        f"LEVELQ_{name.upper()}={value}"
        for name, value in settings.model_dump(exclude=urls).items()
        if value != type(settings).model_fields[name].get_default()
    ]
    external = f"{redacted(settings.redis_url)}, {redacted(settings.database_url or '')}"
    return {
        "servers": "embedded, on this machine" if environment.embedded else external,
        "workers": f"{processes} processes" if processes else "the system's own",
        "machine": _machine(),
        "PostgreSQL": postgres,
        "queue": redis + f", a cluster of {len(servers)}" * (len(servers) > 1),
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "settings": ", ".join(changed) or "all at their defaults",
        "committed at": _clock(sampler),
    }


def _clock(sampler: Sampler) -> str:
    if not sampler.exact:
        return "when it was seen, up to 0.2 s late: track_commit_timestamp is off"
    ahead = sampler.clock_ahead
    corrected = f"; its clock differs from this host's by {1000 * ahead:+.1f} ms, which is subtracted" if ahead else ""
    return f"PostgreSQL's time of the commit, just before its log is flushed{corrected}"


def _machine() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    model = next((f" ({line.partition(':')[2].strip()})" for line in lines if "model name" in line), "")
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{cores} cores{model}, {memory:.0f} GB, {platform.system()} {platform.release()}"
