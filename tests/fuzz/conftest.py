"""Random input with a seed that is printed: set FUZZ_SEED to see the same again."""

import os
from random import Random, SystemRandom

import pytest


@pytest.fixture
def rng() -> Random:
    seed = int(os.environ.get("FUZZ_SEED") or SystemRandom().getrandbits(32))
    print(f"FUZZ_SEED={seed}")
    return Random(seed)
