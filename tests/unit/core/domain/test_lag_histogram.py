"""The histogram of lags: small, exact enough, and the same however it was put together."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from levelq_core.domain.lag_histogram import MOST_MS, bucket_of, merged, quantile

times = st.lists(st.integers(0, MOST_MS), min_size=1, max_size=50)


def histogram(values: list[int]) -> Counter[int]:
    return Counter(map(bucket_of, values))


@given(times, times, st.sampled_from([0.5, 0.99, 1.0]))
def test_quantile_of_merged_histograms_is_within_7_percent(first: list[int], second: list[int], share: float) -> None:
    everything = sorted(first + second)
    true = everything[math.ceil(share * len(everything)) - 1]
    found = quantile(merged([histogram(first), histogram(second)]), share)
    assert found is not None and abs(1000 * found - true) <= 0.07 * true


def test_histogram_is_bounded_and_a_clock_that_steps_back_counts_as_no_lag() -> None:
    assert bucket_of(10 * MOST_MS) == bucket_of(MOST_MS) < 250
    assert (bucket_of(-5), quantile({bucket_of(-5): 1}, 0.99), quantile({}, 0.5)) == (0, 0.0, None)
