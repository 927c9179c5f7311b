"""Everything that `levelq top` and a page that follows a running system show at one moment."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine

from levelq_core.operations.connections import require_engine
from levelq_core.settings import Settings

from .bounds import FOLLOWING
from .records import Reading, Time
from .status import StatusReport, find
from .workers import WorkersReport


class SystemOverview(Reading):
    """What waits and what is wrong, and what the workers do. `at`: by the clock of the reader.

    `workers`: None if the lanes' Redis does not answer.
    """

    at: Time
    status: StatusReport
    workers: WorkersReport | None


def overview(settings: Settings | None = None, *, engine: Engine | None = None) -> SystemOverview:
    """Read what `levelq top` shows; one reading costs some 20 ms of processor time. Changes nothing.

    It is read every few seconds, so it looks less far than `status`: at 200 parked lanes of each partition, for
    example, and for misspelt names only at the newest 1,000 rows of a table over 4 MB. Connections, arguments, blocking
    and errors are those of `status`.
    """
    settings = Settings.of(settings)
    if engine is not None:
        require_engine(engine)
    found = find(settings, engine, FOLLOWING)
    return SystemOverview(at=datetime.now(UTC), status=found.report(), workers=found.workers)
