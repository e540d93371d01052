"""Responses kept for as long as their TTLs allow (RFC 1035 section 7.4, RFC 2308)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ue_agent.dns_proxy.wire.message import Response

CAPACITY = 2000
"""Responses kept; the oldest goes first."""
MAXIMUM_SIZE = 4096
"""Octets of the largest response that is kept."""

_TTL = struct.Struct("!I")


class Entry(NamedTuple):
    """A response as the upstream sent it, and what is needed to hand it out later."""

    data: bytes
    response: Response
    stored: float
    expires: float


class Cache:
    """Maps a query (every byte but its ID, the name in lower case) to the response it got."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def store(self, key: bytes, data: bytes, response: Response, now: float) -> None:
        """Keep ``data`` if it may be kept."""
        if response.ttl is None or len(data) > MAXIMUM_SIZE:
            return
        self._entries.pop(key, None)
        if len(self._entries) >= self._capacity:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = Entry(data, response, now, now + response.ttl)

    def find(self, key: bytes, now: float) -> Entry | None:
        """Return the entry for ``key`` unless it has expired."""
        entry = self._entries.get(key)
        if entry is not None and now >= entry.expires:
            del self._entries[key]
            return None
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def aged(entry: Entry, question: bytes, now: float) -> bytes:
    """Return the kept response with its TTLs reduced by its age, and the client's ``question`` (ID apart).

    ``question`` is the client's own question section, whose letters may differ in case from the first asker's.
    """
    message = bytearray(entry.data)
    message[12 : 12 + len(question)] = question
    age = int(now - entry.stored)
    if age:
        for offset in entry.response.ttl_offsets:
            (ttl,) = _TTL.unpack_from(message, offset)
            _TTL.pack_into(message, offset, max(ttl - age, 0) if ttl < 1 << 31 else 0)
    return bytes(message)
