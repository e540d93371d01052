"""Our media plane, legs and bridge as a server process for ``bench.media``, steered by lines of JSON.

The page's side has SDES keys in place of DTLS and ICE, as the peer's has in this bench; all per-packet work is the
product's own: plane, RTCP, bridge, codecs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import sys
from dataclasses import dataclass
from typing import Any

from imskit.media.bridge import Bridge
from imskit.media.events import LegEvent
from imskit.media.ims_leg import ImsLeg
from imskit.media.plane import Address, Notice, SocketId, SrtpKeys, SrtpProfile
from imskit.media.python_plane import PythonPlane
from imskit.media.rtcp_session import RtcpSession
from imskit.sdp.attributes import Direction
from imskit.sdp.codec import AmrParameters
from imskit.sdp.interworking import plan
from imskit.sdp.negotiation import AgreedCodec, LegMedia
from imskit.secrets import Secret


class SdesLeg:
    """A secured leg with its own socket and no ICE."""

    def __init__(self, plane: PythonPlane, peer: Address, keys: SrtpKeys, clock_rate: int) -> None:
        self._plane = plane
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket_id: SocketId = plane.open_socket(self._socket, self.punt)
        self.port: int = self._socket.getsockname()[1]
        self.id = plane.leg_open(self._socket_id, self, ssrc=secrets.randbits(32), secured=True)
        plane.leg_remote(self.id, peer)
        plane.leg_keys(self.id, keys)
        self.reports = RtcpSession(plane, self.id, cname="bench", clock_rate=clock_rate)

    def punt(self, data: bytes, address: Address) -> None:
        """Nothing but SRTP comes here."""

    def rtcp(self, data: bytes, address: Address) -> None:
        """Take RTCP."""
        self.reports.packet_received(data)

    def notice(self, notice: Notice, now: float) -> None:
        """No use for it."""

    def close(self) -> None:
        """End the leg."""
        self.reports.close()
        self._plane.close(self.id)
        self._plane.close_socket(self._socket_id)
        self._socket.close()


@dataclass
class Call:
    """Both legs and what joins them."""

    web: SdesLeg
    ims: ImsLeg
    bridge: Bridge

    def close(self) -> None:
        """End it."""
        self.bridge.close()
        self.web.close()
        self.ims.close()


def _nothing(event: LegEvent) -> None:
    """Events are of no interest here."""


def _media(codec: dict[str, Any], octet_aligned: bool = False) -> LegMedia:
    name = codec["name"]
    agreed = AgreedCodec(
        name,
        codec["clock"],
        2 if name == "opus" else 1,
        codec["type"],
        codec["type"],
        amr=AmrParameters(octet_align=octet_aligned) if name.startswith("AMR") else None,
    )
    return LegMedia(0, True, (agreed,), (), Direction.SENDRECV)


class Server:
    """Opens and closes calls as it is told."""

    def __init__(self) -> None:
        self.plane = PythonPlane()
        self.calls: list[Call] = []

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one line asks."""
        if request["do"] == "close":
            added = [part.added_mean_ms for call in self.calls for part in call.bridge.stats() or ()]
            work = [part.transcoding.mean_milliseconds for call in self.calls for part in call.bridge.stats() or ()]
            for call in self.calls:
                call.close()
            self.calls.clear()
            return {"added_ms": max(added, default=0.0), "frame_ms": max(work, default=0.0)}
        web, ims = _media(request["web"]), _media(request["ims"], request["octet_aligned"])
        keys = SrtpKeys(
            SrtpProfile.AES128_CM_SHA1_80,
            send=Secret(base64.b64decode(request["our_key"])),
            receive=Secret(base64.b64decode(request["web_key"])),
        )
        web_leg = SdesLeg(self.plane, ("127.0.0.1", request["web_port"]), keys, web.codec.clock_rate)
        ims_leg = ImsLeg(
            self.plane,
            "127.0.0.1",
            cname="bench",
            clock_rate=ims.codec.clock_rate,
            on_event=_nothing,
            ports=range(30000, 49000),
        )
        ims_leg.set_remote(("127.0.0.1", request["ims_port"]))
        bridge = Bridge(self.plane, web_leg.id, ims_leg.id)
        bridge.apply(plan(web, ims))
        self.calls.append(Call(web_leg, ims_leg, bridge))
        return {"web_port": web_leg.port, "ims_port": ims_leg.rtp_address[1]}


async def serve() -> None:
    """Answer lines from standard input until it ends."""
    server = Server()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(server.handle(json.loads(line))), flush=True)


if __name__ == "__main__":
    if "--asyncio" in sys.argv:
        asyncio.run(serve())
    else:
        import uvloop

        uvloop.run(serve())
