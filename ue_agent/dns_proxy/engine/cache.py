"""Responses kept for as long as their TTLs allow (RFC 1035 section 7.4, RFC 2308).

Most names are asked for once: a response is taken in as it came, and read only when it is asked for again.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from ue_agent.dns_proxy.wire.message import DnsError, parse_response

CAPACITY = 2000
"""Responses kept; the oldest goes first."""
MAXIMUM_SIZE = 4096
"""Octets of the largest response that is kept."""

_TTL = struct.Struct("!I")


class Cache(OrderedDict[bytes, tuple[bytes, float]]):
    """Maps a query (every byte but its ID, the name in lower case) to the response it got, and when."""

    def store(self, key: bytes, data: bytes, now: float) -> None:
        """Take in the response to ``key``."""
        if len(self) >= CAPACITY:
            self.popitem(last=False)
        if len(data) <= MAXIMUM_SIZE:
            self[key] = data, now

    def find(self, key: bytes, question: bytes, now: float) -> bytes | None:
        """Return the response to ``key``, its TTLs reduced by its age; ``None`` if it may not be used (any more).

        ``question`` is the client's own question section: its letters may differ in case from the first asker's.
        """
        data, stored = self[key]
        age = int(now - stored)
        try:
            response = parse_response(data)
        except DnsError:
            response = None
        if response is None or response.ttl is None or age >= response.ttl:
            del self[key]
            return None
        message = bytearray(data)
        message[12 : 12 + len(question)] = question
        if age:
            for offset in response.ttl_offsets:
                (ttl,) = _TTL.unpack_from(message, offset)
                _TTL.pack_into(message, offset, max(ttl - age, 0) if ttl < 1 << 31 else 0)
        return bytes(message)
