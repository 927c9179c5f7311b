"""The lanes in Redis: every step of the protocol is one script call, made here and nowhere else."""

from __future__ import annotations

from .drain_lanes import DrainLanes
from .namespace_keys import NamespaceKeys
from .producer_lanes import ProducerLanes
from .relay_lanes import RelayLanes
from .upkeep_lanes import UpkeepLanes


class Lanes(ProducerLanes, DrainLanes, RelayLanes, UpkeepLanes, NamespaceKeys):
    """The whole protocol, in parts by who calls them. Raises redis-py's errors; a call is never repeated."""
