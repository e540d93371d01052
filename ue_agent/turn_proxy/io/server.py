"""The TURN proxy: the TURN server machine on UDP and TCP sockets and the media plane.

The plane reads the UDP sockets and carries bound channels; what it does not know (STUN, unknown channels and peers)
comes up here and goes through the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from imskit.engine import Tick
from imskit.media.plane import MediaPlane, SocketId
from imskit.stun.engine import events as e
from imskit.stun.engine.credentials import CredentialStore
from imskit.stun.engine.policy import PeerPolicy
from imskit.stun.engine.settings import TurnCounters, TurnSettings
from imskit.stun.engine.turn import TurnServer
from imskit.stun.wire.attributes import Address
from imskit.stun.wire.channel_data import LAST_CHANNEL
from ue_agent.turn_proxy.io.device import hear_only
from ue_agent.turn_proxy.io.relays import RelaySource
from ue_agent.turn_proxy.io.stream import TurnStream

_log = logging.getLogger(__name__)

CONNECTIONS = 256
"""TCP clients at a time."""
_PORT_ATTEMPTS = 16


class TurnProxy:
    """A TURN server on given addresses, UDP and TCP each.

    ``credentials`` may be changed while it runs; after a change of ``policy`` call ``policy_changed``.
    With ``device`` only packets that come through this interface are heard.
    """

    def __init__(
        self,
        plane: MediaPlane,
        listen: Sequence[Address],
        credentials: CredentialStore,
        policy: PeerPolicy,
        relays: RelaySource,
        settings: TurnSettings | None = None,
        device: str = "",
    ) -> None:
        self._plane = plane
        self._listen = listen
        self._credentials = credentials
        self._policy = policy
        self._relays = relays
        self._settings = settings or TurnSettings()
        self._device = device
        self._engine: TurnServer | None = None
        self._sockets: dict[Address, tuple[socket.socket, SocketId]] = {}
        self._listeners: list[asyncio.Server] = []
        self._streams: dict[e.Flow, TurnStream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._draining = False
        self._loop = asyncio.get_running_loop()
        self.endpoints: list[Address] = []
        """Addresses that it listens on, once started."""

    async def start(self) -> None:
        """Bind and listen; ``OSError`` where an address cannot be had (then nothing stays open)."""
        try:
            for host, port in self._listen:
                await self._listen_on(host, port)
        except OSError:
            await self.aclose()
            raise
        settings = replace(
            self._settings,
            families=self._relays.families,
            dont_fragment=self._relays.dont_fragment,
            listening=frozenset(self.endpoints),
        )
        self._engine = TurnServer(settings, self._credentials, self._policy, _tokens)
        self._relays.attach(self._from_peer)
        for address, (sock, _) in self._sockets.items():
            socket_id = self._plane.open_socket(sock, partial(self._from_client, address))
            self._sockets[address] = sock, socket_id
        for listener in self._listeners:
            await listener.start_serving()
        _log.info("TURN proxy listens on %s", ", ".join(f"{host} port {port}" for host, port in self.endpoints))

    async def aclose(self) -> None:
        """End all allocations and close everything."""
        for listener in self._listeners:
            listener.close()
        for stream in list(self._streams.values()):
            stream.close()
        for listener in self._listeners:
            await listener.wait_closed()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        started, self._engine = self._engine is not None, None
        for sock, socket_id in self._sockets.values():
            if started:
                self._plane.close_socket(socket_id)
            sock.close()
        self._relays.aclose()
        self._sockets.clear()
        self._listeners.clear()
        self.endpoints.clear()

    def policy_changed(self) -> None:
        """Drop permissions and channels that the policy no longer allows."""
        self._handle(e.PolicyChanged())

    def remove_user(self, username: str) -> None:
        """Withdraw a credential and end what it holds."""
        self._credentials.remove(username)
        self._handle(e.UserRemoved(username))

    @property
    def counters(self) -> TurnCounters:
        """What happened since the start."""
        return self._engine.counters if self._engine else TurnCounters()

    @property
    def allocations(self) -> int:
        """Allocations that are alive."""
        return self._engine.allocations if self._engine else 0

    # --- sockets -----------------------------------------------------------------------------------------------

    async def _listen_on(self, host: str, port: int) -> None:
        """Bind UDP and TCP; with port 0 the same free port for both."""
        for attempt in range(_PORT_ATTEMPTS):
            with contextlib.ExitStack() as opened:
                udp = opened.enter_context(_bound(socket.SOCK_DGRAM, host, port, self._device))
                address: Address = udp.getsockname()[:2]
                try:
                    tcp = opened.enter_context(_bound(socket.SOCK_STREAM, *address, self._device))
                except OSError:
                    if port or attempt == _PORT_ATTEMPTS - 1:
                        raise
                    continue
                listener = await self._loop.create_server(
                    lambda: TurnStream(self, self._loop.call_later, self._settings.last_channel),
                    sock=tcp,
                    start_serving=False,
                )
                opened.pop_all()
            self._sockets[address] = udp, SocketId(0)
            self._listeners.append(listener)
            self.endpoints.append(address)
            return

    def _from_client(self, server: Address, data: bytes, client: Address) -> None:
        self._handle(e.Received(e.Flow("UDP", server, client), data))

    def _from_peer(self, relay: e.RelayId, peer: Address, data: bytes) -> None:
        self._handle(e.FromPeer(relay, peer, data))

    def stream_opened(self, stream: TurnStream) -> bool:
        """Take a TCP client."""
        if len(self._streams) >= CONNECTIONS:
            return False
        self._streams[stream.flow] = stream
        return True

    def stream_frame(self, flow: e.Flow, frame: bytes) -> None:
        """Take a TCP client's frame."""
        self._handle(e.Received(flow, frame))

    def stream_closed(self, flow: e.Flow) -> None:
        """A TCP client is gone."""
        self._streams.pop(flow, None)
        self._handle(e.FlowClosed(flow))

    def stream_is_used(self, flow: e.Flow) -> bool:
        """Whether a TCP client has an allocation."""
        return self._engine is not None and self._engine.has_allocation(flow)

    # --- the machine -------------------------------------------------------------------------------------------

    def _handle(self, event: e.Event | Tick) -> None:
        engine = self._engine
        if engine is None:
            return
        engine.handle(event, time.monotonic())
        if self._draining:
            return  # an output has led straight to this event; whoever drains goes on with what it gave
        self._draining = True
        try:
            while (output := engine.poll()) is not None:
                self._carry_out(engine, output)
        finally:
            self._draining = False
        self._set_timer(engine.deadline())

    def _carry_out(self, engine: TurnServer, output: e.Output) -> None:
        match output:
            case e.SendToClient(flow, data, relayed):
                if flow.stream:
                    if (stream := self._streams.get(flow)) is not None:
                        stream.send(data, may_be_lost=relayed)
                else:
                    self._plane.send(self._sockets[flow.server][1], data, flow.client)
            case e.SendToPeer():
                self._relays.send(output)
            case e.OpenRelay(relay):
                address = self._relays.open(output)
                done = e.RelayFailed(relay) if address is None else e.RelayOpened(relay, address)
                engine.handle(done, time.monotonic())
            case e.CloseRelay(relay):
                self._relays.close(relay)
            case e.ChannelBound(flow, channel):
                if not flow.stream and channel <= LAST_CHANNEL:  # the plane knows no others
                    self._relays.bind(self._sockets[flow.server][1], output)
            case e.ChannelUnbound(flow, channel):
                if not flow.stream:
                    self._plane.unbind_channel(self._sockets[flow.server][1], flow.client, channel)

    def _set_timer(self, deadline: float | None) -> None:
        if deadline == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = deadline
        if deadline is not None:
            self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._handle(Tick())


def _bound(kind: socket.SocketKind, host: str, port: int, device: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device:
            hear_only(sock, device)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _tokens(digits: int) -> str:
    return secrets.token_hex((digits + 1) // 2)[:digits]
