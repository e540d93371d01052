"""How often somebody may try."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Callable

MAX_KEYS = 100_000
"""How many names or addresses are remembered; the longest unused is forgotten above this."""


class RateLimit:
    """At most ``count`` tries of one key within ``seconds``, on any monotonic ``clock``."""

    def __init__(self, count: int, seconds: float, clock: Callable[[], float]) -> None:
        self._count = count
        self._seconds = seconds
        self._clock = clock
        self._tries: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str) -> int:
        """Return how many seconds to wait before the next try, 0 if it may be now."""
        tries = self._tries.get(key)
        now = self._clock()
        while tries and tries[0] + self._seconds <= now:
            tries.popleft()
        if not tries or len(tries) < self._count:
            return 0
        return max(1, math.ceil(tries[0] + self._seconds - now))

    def count(self, key: str) -> None:
        """Note a try."""
        tries = self._tries.setdefault(key, deque(maxlen=self._count))
        tries.append(self._clock())
        self._tries.move_to_end(key)
        while len(self._tries) > MAX_KEYS:
            self._tries.popitem(last=False)

    def forget(self, key: str) -> None:
        """Start anew: the key has shown that it may."""
        self._tries.pop(key, None)


def address_key(address: str | None) -> str:
    """Return what stands for one client: the IPv4 address, the /64 network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
