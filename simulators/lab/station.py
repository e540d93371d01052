"""A host that is a thread: an event loop of its own in a network namespace of its own.

For tests and benches that hold both ends of a link in one process: what runs on a station's loop (sockets, TUN
devices, netlink, programs started) is in the station's network, while values pass freely between the stations.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from simulators.lab.world import LabError, command


class Station:
    """One such host; needs root.  Use as a context manager, or ``close()`` it."""

    def __init__(self, name: str) -> None:
        """``name`` is for messages."""
        self.name = name
        self._loop = asyncio.new_event_loop()
        entered: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(entered,), name=name, daemon=True)
        self._thread.start()
        try:
            entered.result()
        except OSError as error:
            raise LabError(f"station {name}: the kernel refused a network namespace ({error.strerror})") from error
        self.command("ip", "link", "set", "lo", "up")

    def _live(self, entered: Future[None]) -> None:
        try:
            os.unshare(os.CLONE_NEWNET)
        except OSError as error:
            entered.set_exception(error)
            return
        entered.set_result(None)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    @property
    def namespace(self) -> Path:
        """The file of the network namespace, for ``ip link set ... netns``."""
        return Path(f"/proc/{os.getpid()}/task/{self._thread.native_id}/ns/net")

    async def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the station's loop and return its result to the caller's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def call[T](self, work: Callable[[], T]) -> T:
        """Run a function that does not wait in the station's thread, from any other thread."""

        async def wrapped() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(wrapped(), self._loop).result()

    def command(self, *argv: str) -> str:
        """Run a short system command on the station; ``LabError`` if it fails."""
        return self.call(lambda: command(*argv))

    def close(self) -> None:
        """End the loop; the namespace goes with the last socket in it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def link(one: Station, other: Station, names: tuple[str, str], *, mtu: int = 1500) -> None:
    """Join two stations by a pair of interfaces of these names, one on each."""
    one.command("ip", "link", "add", names[0], "mtu", str(mtu), "type", "veth", "peer", "name", names[1])
    # `ip` takes a file or a process, and a station is no process: the namespace is handed over as an open file.
    with other.namespace.open("rb") as namespace:
        target = f"/proc/{os.getpid()}/fd/{namespace.fileno()}"
        one.command("ip", "link", "set", names[1], "netns", target)
    other.command("ip", "link", "set", names[1], "mtu", str(mtu), "up")
    one.command("ip", "link", "set", names[0], "up")
