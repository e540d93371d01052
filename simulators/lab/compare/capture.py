"""A tap in a host of the lab: every IP packet of its interfaces, counted by reference point as it passes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable

from simulators.lab.compare.model import Traffic
from simulators.lab.compare.traffic import Counter, Rule
from simulators.lab.host import Machine

_ETH_P_IP = 0x0800
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_OUTGOING = 4
_BUFFER = 32 << 20
_AT_ONCE = 500


class Capture:
    """Counts by ``rules`` what ``host`` sends and receives, from now until `close`."""

    def __init__(self, host: Machine, rules: Iterable[Rule]) -> None:
        self._counter = Counter(rules)
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        with contextlib.suppress(OSError):  # in a user namespace the ordinary limit holds
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, origin = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # an interface went away
                continue
            interface, protocol, kind = origin[0], origin[1], origin[2]
            # A loopback shows what goes out as coming in, too.
            if protocol == _ETH_P_IP and (interface != "lo" or kind == _OUTGOING):
                self._counter.take(interface, data)

    def reset(self) -> None:
        """Begin to count anew."""
        self._read()
        self._missed()
        self._counter.reset()

    def result(self) -> dict[str, Traffic]:
        """What was counted since `reset`, by reference point; nothing, and why, if the kernel had to drop packets."""
        self._read()
        found = self._counter.result()
        if missed := self._missed():
            reason = f"the capture missed {missed} packets: this machine is too busy"
            return {point: Traffic(reason=reason) for point in found}
        return found

    def _missed(self) -> int:
        """Packets that the kernel dropped since the last question."""
        answer = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("II", answer)[1])

    def close(self) -> None:
        """See no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
