"""How often something may be done: for each key, and in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

MOST_KEYS = 10_000


class Limit:
    """A rate limit: `most` uses at once, and then `most` every `seconds`, spread evenly."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._each, self._clock = most, seconds / most, clock
        self._full_until: OrderedDict[str, float] = OrderedDict()  # when all of the key's uses will have expired

    def wait(self, key: str) -> float:
        """Seconds until this key may be used once more; 0 for now."""
        busy = self._full_until.get(key, 0.0) - self._clock()
        return max(0.0, round(busy - (self._most - 1) * self._each, 6))  # sums of fractions are not exact

    def use(self, key: str) -> None:
        """Count one use. If there are too many keys, the one that was used longest ago is forgotten."""
        self._full_until[key] = max(self._full_until.get(key, 0.0), self._clock()) + self._each
        self._full_until.move_to_end(key)
        if len(self._full_until) > MOST_KEYS:
            self._full_until.popitem(last=False)


def address_key(host: str) -> str:
    """The address to count by. Of IPv6 the network of 64 bits, because one host may have all of its addresses."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(getattr(address, "ipv4_mapped", None) or address)
