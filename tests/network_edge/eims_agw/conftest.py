"""A gateway on loopback with a browser's and a phone's media."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from imskit.media.python_plane import PythonPlane
from network_edge.eims_agw.call_media import MediaNode, Network
from network_edge.eims_agw.gateway import Gateway, Limits
from network_edge.iq.gateway import MediaLost
from simulators.media_ends import BrowserEnd, PhoneEnd


class Bench:
    """Makes gateways and ends, and closes them all."""

    def __init__(self) -> None:
        self.plane = PythonPlane()
        self.gateways: list[Gateway] = []
        self.browsers: list[BrowserEnd] = []
        self.phones: list[PhoneEnd] = []
        self.lost: list[MediaLost] = []

    def gateway(self, **limits: float) -> Gateway:
        network = Network("127.0.0.1", range(30000, 39998))
        gateway = Gateway(MediaNode(PythonPlane(), network, network), Limits(**limits))  # type: ignore[arg-type]
        gateway.on_media_lost = self.lost.append
        self.gateways.append(gateway)
        return gateway

    def browser(self, *, offers: bool = True, **options: object) -> BrowserEnd:
        self.browsers.append(BrowserEnd(PythonPlane(), offers=offers, **options))  # type: ignore[arg-type]
        return self.browsers[-1]

    def phone(self, **options: object) -> PhoneEnd:
        self.phones.append(PhoneEnd(PythonPlane(), **options))  # type: ignore[arg-type]
        return self.phones[-1]

    async def close(self) -> None:
        for browser in self.browsers:
            await browser.close()
        for phone in self.phones:
            phone.close()
        for gateway in self.gateways:
            await gateway.close()
            assert gateway.sessions == 0


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()
