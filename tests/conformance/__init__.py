"""One suite for everything that runs the lane scripts: fakeredis in tests/unit, Valkey in tests/integration."""

import pytest

for module in ("kit", "pushing", "claiming", "acknowledging", "upkeep", "model"):
    pytest.register_assert_rewrite(f"{__name__}.{module}")
