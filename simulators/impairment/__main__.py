"""Joins two Ethernet interfaces of this network namespace through an impaired link.

``python -m simulators.impairment NEAR FAR loss=2%,delay=50ms``: it runs until it is ended, and says what it lost.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import sys
from collections.abc import Sequence

from imskit.engine import Tick
from simulators.impairment.engine import Frame, Impairment, Link

_ETH_P_ALL = 3
_OUTGOING = 4
_BUFFER = 8 << 20
_AT_ONCE = 200


class Direction:
    """Frames of one interface, put out on another when the link lets them."""

    def __init__(self, source: socket.socket, target: socket.socket, impairment: Impairment) -> None:
        self.link = Link(impairment, random.random)
        self._source = source
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, origin = self._source.recvfrom(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # the interface is down for a moment
                break
            if origin[2] != _OUTGOING:
                self.link.handle(Frame(data), self._loop.time())
        self._drain()

    def _tick(self) -> None:
        self._timer = None
        self.link.handle(Tick(), self._loop.time())
        self._drain()

    def _drain(self) -> None:
        while (frame := self.link.poll()) is not None:
            try:
                self._target.send(frame.data)
            except OSError:  # down, or its queue is full: lost, as on any link
                self.link.dropped += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (at := self.link.deadline()) is not None:
            self._timer = self._loop.call_at(at, self._tick)


def _open(interface: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    opened.bind((interface, _ETH_P_ALL))
    opened.setblocking(False)
    return opened


async def _run(near: str, far: str, impairment: Impairment) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _open(near) as one, _open(far) as other:
        directions = Direction(one, other, impairment), Direction(other, one, impairment)
        print(f"ready: {near} to {far}, {impairment}", flush=True)
        await stop.wait()
        lost = ", ".join(f"{way.link.lost} lost and {way.link.dropped} dropped" for way in directions)
        print(f"there and back: {lost}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Run until ended; 2 for wrong arguments."""
    try:
        near, far, text = argv
        impairment = Impairment.parse(text)
    except ValueError as error:
        print(f"usage: python -m simulators.impairment NEAR FAR loss=2%,delay=50ms ({error})", file=sys.stderr)
        return 2
    asyncio.run(_run(near, far, impairment))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
