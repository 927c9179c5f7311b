"""A histogram of times in ms that stays small and can be added to others: bucket -> how many.

Eight buckets for each power of two, so a quantile is within 7 % of the true one; at most 250 buckets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

MOST_MS = 2**33  # a hundred days; what is longer counts as this


def bucket_of(ms: int) -> int:
    """The bucket of a time in ms; below 16 ms each has its own."""
    ms = min(max(ms, 0), MOST_MS)
    shift = max(0, ms.bit_length() - 4)
    return 8 * shift + (ms >> shift)


def middle_of(bucket: int) -> float:
    """The time in ms in the middle of a bucket."""
    shift = max(0, bucket // 8 - 1)
    return ((bucket - 8 * shift) << shift) + ((1 << shift) - 1) / 2


def merged(histograms: Iterable[Mapping[int, int]]) -> Counter[int]:
    """The sum of histograms."""
    total: Counter[int] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return total


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """The time in seconds that this share (0 to 1) of the values does not exceed; None without a value."""
    left = math.ceil(share * sum(histogram.values()))
    for bucket in sorted(histogram):
        left -= histogram[bucket]
        if left <= 0 < histogram[bucket]:
            return middle_of(bucket) / 1000
    return None
