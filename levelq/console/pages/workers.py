"""The workers: what each does now, how fast, and which of them needs attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page
from levelq_core.operations.readings.workers import WorkerStatus

_TROUBLES = ("silent", "hangs", "waiting", "slow")  # the worst first
_KINDS = {
    "silent": "wrong",
    "hangs": "wrong",
    "waiting": "note",
    "slow": "note",
    "draining": "well",
    "transaction": "well",
}


class Row(NamedTuple):
    """A worker on the page. `state`: in one word; `kind`: the badge of it. `odd`: most workers run another version."""

    worker: WorkerStatus
    state: str
    kind: str
    odd: bool


def workers(request: Request) -> Response:
    """`/workers`."""
    console: Console = request.app.state.console
    seen = console.overview.get()
    found = () if seen.workers is None else seen.workers.workers
    rows = rows_of(found, console.settings.claim_seconds)
    return page(request, "workers.html", seen=seen, report=seen.workers, rows=rows)


def rows_of(found: Iterable[WorkerStatus], claim_seconds: float) -> list[Row]:
    """Those that need attention first, the others by host and process: a row keeps its place while nothing is wrong."""
    listed = sorted(found, key=lambda worker: (worker.host, worker.pid))
    versions = Counter(worker.version for worker in listed)
    usual = versions.most_common(1)[0][0] if versions else ""
    rows = []
    for worker in listed:
        state = _trouble(worker, claim_seconds) or worker.state
        rows.append(Row(worker, state, _KINDS.get(state, "neutral"), worker.version != usual))
    return sorted(rows, key=lambda row: _TROUBLES.index(row.state) if row.state in _TROUBLES else len(_TROUBLES))


def _trouble(worker: WorkerStatus, claim_seconds: float) -> str | None:
    """What is wrong with it, in one word."""
    if worker.state in ("silent", "waiting"):
        return worker.state
    without_progress = (worker.reported - worker.progress).total_seconds()
    if worker.state in ("draining", "transaction") and without_progress > claim_seconds:
        return "hangs"
    return None if worker.slow_since is None else "slow"


routes = [Route("/workers", workers, name="workers")]
