"""What came of a load test: all that the summary and the report tell."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from levelq_core.operations.verify import Report
from levelq_core.redis_client.topology import servers_of
from levelq_core.settings import redacted

from .measuring import CommandTiming, Figures
from .stage import Stage
from .watching import Sample, Watch
from .wish import Wish

LATE_SECONDS = 0.05  # senders that are later than this, one time in a hundred, are part of what was measured
_PACKAGES = ("levelq", "redis", "rq", "psycopg", "sqlalchemy")


@dataclass(frozen=True)
class Result:
    """One run, ended."""

    wish: Wish
    started: float
    ended: float
    counts: Counter[str]
    errors: dict[str, str]  # of sends, the first of each kind
    courses: Sequence[CommandTiming]
    figures: Figures
    looks: Sequence[Sample]
    applied: int
    level_ups: int
    report: Report
    facts: dict[str, str]
    interrupted: bool

    @property
    def passed(self) -> bool:
        """Whether the checker found nothing, and nothing was left undecided or could not be sent at all."""
        return not self.report.violations and not self.figures.undecided and self.figures.queued > 0

    @property
    def rejected(self) -> int:
        """Decided, and not applied."""
        return self.figures.waits.size - self.applied

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures should know first."""
        figures, counts, found = self.figures, self.counts, []
        if figures.undecided:
            found.append(f"{figures.undecided:,} queued commands were not decided in time: no latency counts them")
        if not figures.queued:
            found.append("nothing could be queued")
        for kind, text in self.errors.items():
            found.append(f"{counts['refused']:,} sends refused, {counts['unknown']:,} unanswered; first {kind}: {text}")
        late = figures.late.p99
        if late > LATE_SECONDS and late > 2 * figures.pushes.longest:  # else they were held up by a push
            found.append(
                f"the senders themselves were late, by {late:.2f} s for one command in a hundred: "
                "more --senders, a lower --rate, or another machine for them"
            )
        if self.interrupted:
            found.append("interrupted: these are the figures until then")
        return found


def facts(stage: Stage, watch: Watch) -> dict[str, str]:
    """Machine, versions and settings, for whoever compares two reports."""
    with stage.engine.connect() as connection:
        postgres = str(connection.exec_driver_sql("SHOW server_version").scalar_one())
    servers = servers_of(stage.redis)
    server: Any = servers[0].info("server")
    redis = f"Valkey {server['valkey_version']}" if "valkey_version" in server else f"Redis {server['redis_version']}"
    redis += f", a cluster of {len(servers)}" * (len(servers) > 1)
    urls = {"redis_url", "rq_url", "database_url", "listen_url"}
    changed = {
        f"LEVELQ_{name.upper()}": str(value)
        for name, value in stage.settings.model_dump(exclude=urls).items()
        if value != type(stage.settings).model_fields[name].get_default()
    }
    return {
        "servers": "embedded, on this machine" if stage.own else _places(stage),
        "workers": f"{stage.crew.processes} processes" if stage.crew.processes else "the system's own",
        "machine": _machine(),
        "PostgreSQL": postgres,
        "queue": redis,
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "settings": ", ".join(f"{name}={value}" for name, value in changed.items()) or "all at their defaults",
        "committed at": _clock(watch),
    }


def _places(stage: Stage) -> str:
    return f"{redacted(stage.settings.redis_url)}, {redacted(stage.settings.database_url or '')}"


def _clock(watch: Watch) -> str:
    behind = f"; that clock is {1000 * watch.behind:+.1f} ms off ours, which is taken out" if watch.behind else ""
    if watch.exact:
        return f"PostgreSQL's time of the commit, just before its log is flushed{behind}"
    return "when it was seen, up to 0.2 s late: track_commit_timestamp is off"


def _machine() -> str:
    model = ""
    about = Path("/proc/cpuinfo")
    if about.exists():
        names = [line.partition(":")[2].strip() for line in about.read_text().splitlines() if "model name" in line]
        model = f" ({names[0]})" if names else ""
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return f"{cores} cores{model}, {memory:.0f} GB, {platform.system()} {platform.release()}"
