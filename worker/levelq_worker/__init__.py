"""levelq's workers: the RQ worker class and the job it runs. Needs levelq[worker]."""

from __future__ import annotations

from .draining import drain
from .lane_worker import LaneWorker

__all__ = ["LaneWorker", "drain"]
