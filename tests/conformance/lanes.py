"""The suite as one class: subclass it where a `bench` fixture chooses the Redis.

The tests are in the modules beside this one, by script; the promises are in section 5 of the design.
"""

import pytest

from tests.conformance.acknowledging import Acknowledging
from tests.conformance.claiming import Claiming
from tests.conformance.kit import Bench, Benches
from tests.conformance.model import Interleaving
from tests.conformance.parking import Parking
from tests.conformance.pausing import Pausing
from tests.conformance.pushing import PushBatch
from tests.conformance.trending import Trending
from tests.conformance.upkeep import Upkeep
from tests.conformance.withdrawing import Withdrawing

__all__ = ["Bench", "Benches", "LanesConformance"]


class LanesConformance(
    PushBatch, Claiming, Acknowledging, Parking, Pausing, Upkeep, Withdrawing, Trending, Interleaving
):
    """Every promise of the lane scripts."""

    @pytest.fixture
    def b(self, bench: Benches) -> Bench:
        return bench()
