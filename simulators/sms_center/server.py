"""The message centre on its socket, as part of the core."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from imskit.engine import Tick
from imskit.sip.engine import user_agent as ua
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Address, Target
from simulators.sms_center.engine.gateway import SmsGateway


class SmsCenter:
    """Start it, and it serves until it is closed."""

    def __init__(self, domain: str, address: Address, s_cscf: Target) -> None:
        self.address = address
        self.engine = SmsGateway(domain, address, s_cscf, _tokens, lambda: datetime.now(UTC).replace(microsecond=0))
        self._endpoint: Endpoint[ua.Event | Tick, ua.Transmit] = Endpoint(self.engine, lambda _: None)

    async def start(self) -> None:
        """Open the socket; ``OSError`` if it cannot be had."""
        await self._endpoint.listen("UDP", self.address)
        await self._endpoint.listen("TCP", self.address)

    async def close(self) -> None:
        """Close it."""
        await self._endpoint.close()


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
