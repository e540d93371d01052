"""The tests of this folder run in a guest kernel: ``make test-kernel``."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulators.lab.station import Station, link

_HERE = Path(__file__).parent
_IN_GUEST = "User Mode Linux" in Path("/proc/cpuinfo").read_text()
_ETH_P_ALL = 3
_ETHERNET = 14


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them; outside a guest they are skipped."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.kernel)
            if not _IN_GUEST:
                item.add_marker(pytest.mark.skip(reason="needs a kernel with ESP: make test-kernel"))


class Tap:
    """Sees every frame of an interface, and puts frames on the wire that no IPsec of the machine touches."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((interface, 0))
        self._socket.setblocking(False)

    def take(self) -> list[bytes]:
        """The IP packets that have passed since the last call, either way."""
        packets = []
        while True:
            try:
                frame, origin = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return packets
            if origin[1] in (0x0800, 0x86DD):
                packets.append(frame[_ETHERNET:])

    def inject(self, packet: bytes, to: str) -> None:
        """Send an IP packet to the neighbour with the Ethernet address ``to``."""
        kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        self._socket.send(bytes.fromhex(to.replace(":", "")) + self._socket.getsockname()[4] + kind + packet)

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True)
class Ends:
    """A UE and a P-CSCF on one link; addresses by IP version."""

    ue: Station
    pcscf: Station
    tap: Tap
    """On the P-CSCF's interface; its injected packets go to the UE."""
    ue_mac: str

    def station(self, end: str) -> Station:
        return self.ue if end == "ue" else self.pcscf

    @staticmethod
    def ip(end: str, version: int) -> str:
        host = 1 if end == "ue" else 2
        return f"10.1.0.{host}" if version == 4 else f"fd00:1::{host}"


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with Station("ue") as ue, Station("pcscf") as pcscf:
        link(ue, pcscf, ("ims0", "core0"))
        for end, station, interface in (("ue", ue, "ims0"), ("pcscf", pcscf, "core0")):
            station.command("ip", "addr", "add", Ends.ip(end, 4) + "/24", "dev", interface)
            station.command("ip", "addr", "add", Ends.ip(end, 6) + "/64", "dev", interface, "nodad")
        mac = json.loads(ue.command("ip", "-j", "link", "show", "ims0"))[0]["address"]
        tap = pcscf.call(lambda: Tap("core0"))
        yield Ends(ue, pcscf, tap, mac)
        tap.close()
