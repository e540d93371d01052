"""A UE on a network in memory: its P-CSCF is played by a user agent, or message by message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.profile import UeProfile
from imskit.ims.registration import RetryPolicy, State
from imskit.ims.ue import ImsUe
from imskit.secrets import Identity
from imskit.sip.engine import user_agent as ua
from imskit.sip.engine.events import Received
from imskit.sip.engine.user_agent import UserAgent
from imskit.sip.memory_network import Link, MemoryNetwork, Script, answer_to, counter
from imskit.sip.wire.flow import Flow, Target, Transport
from imskit.sip.wire.message import Request, Response

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
UE, P_CSCF = ("10.45.0.2", 5060), ("10.45.0.1", 5060)
ME = f"sip:+15550100@{DOMAIN}"


def description(host: str = "10.45.0.2", *lines: str) -> bytes:
    return "\r\n".join(
        [
            "v=0",
            f"o=- 1 1 IN IP4 {host}",
            "s=-",
            f"c=IN IP4 {host}",
            "t=0 0",
            "m=audio 40000 RTP/AVP 96",
            "a=rtpmap:96 AMR-WB/16000",
            *lines,
            "",
        ]
    ).encode()


def table(local: str, remote: str) -> tuple[str, ...]:
    """Precondition lines, as their writer sees them."""
    return (
        f"a=curr:qos local {local}",
        f"a=curr:qos remote {remote}",
        "a=des:qos mandatory local sendrecv",
        "a=des:qos optional remote sendrecv",
    )


def profile(transport: Transport = "UDP") -> UeProfile:
    return UeProfile(
        Identity(f"001010000000001@{DOMAIN}"),
        Identity(ME),
        DOMAIN,
        "urn:gsma:imei:35693803-564380-0",
        UE,
        (Target(transport, P_CSCF),),
        "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B",
    )


class Bench:
    """See the module's text: ``script`` for a P-CSCF that does nothing by itself."""

    def __init__(
        self,
        *,
        script: bool = False,
        link: Link = Link(),
        seed: int = 0,
        transport: Transport = "UDP",
        preconditions: bool = True,
    ) -> None:
        self.net = MemoryNetwork(link, seed=seed, transport=transport)
        self.engine = ImsUe(
            replace(profile(transport), preconditions=preconditions), counter("a"), RetryPolicy(base=2.0, maximum=60.0)
        )
        self.ue = self.net.add("ue", self.engine, UE)
        self.script = Script()
        peer = ua.Profile(
            contact="<sip:bob@10.45.0.1:5060>",
            hop=self.net.flow(P_CSCF, UE),
            allow=(*ua.Profile("").allow, "REGISTER", "SUBSCRIBE"),
            supported=("100rel", "timer", "precondition", "replaces"),
        )
        self.network = self.net.add("network", self.script if script else UserAgent(peer, counter("b")), P_CSCF)
        self.network.react = self._serve
        self.registers = 0
        if not script:
            self.ue.feed(ims.Start())
            self.net.run(0.2)
            assert self.engine.status.state is State.REGISTERED
            self.ue.outputs.clear()

    def _serve(self, output: Any) -> Iterable[Any]:
        """The registrar."""
        if not isinstance(output, ua.RequestReceived) or output.call is not None:
            return ()
        request = output.message
        if request.method == "REGISTER":
            self.registers += 1
            return (
                ua.Respond(output.request, 200, None, (("Contact", f"{request.headers.get('Contact')};expires=6000"),)),
            )
        if request.method == "SUBSCRIBE":
            return (ua.Respond(output.request, 200, None, (("Expires", request.headers.get("Expires") or "0"),)),)
        return ()

    # ---- the owner ----------------------------------------------------------------------------------

    def tell(self, *events: Any, wait: float = 0.2) -> None:
        for event in events:
            self.ue.feed(event)
        self.net.run(wait)

    def said[T](self, kind: type[T]) -> list[T]:
        return self.ue.all(kind)

    def one[T](self, kind: type[T]) -> T:
        """The only output of a kind; forgets it."""
        (found,) = self.ue.all(kind)
        self.ue.outputs.remove(found)
        return found

    # ---- the network as a user agent --------------------------------------------------------------

    def invite(self, sdp: bytes | None = None, *, call: str = "n", **more: Any) -> str:
        """Call the UE; returns its name for the call, empty if it did not take it."""
        self.network.feed(ua.Call(call, "sip:10.45.0.2:5060", "<sip:bob@x.example>", f"<{ME}>", sdp=sdp, **more))
        self.net.run(0.2)
        calls = self.ue.all(ims.IncomingCall)
        return calls[-1].call if calls else ""

    def heard[T](self, kind: type[T]) -> T:
        return self.network.last(kind)

    def refusal(self) -> Response:
        """How the UE refused the network's call."""
        message = self.network.last(ua.Ended).message
        assert isinstance(message, Response)
        return message

    # ---- the network as a script ------------------------------------------------------------------

    def send(self, message: Any, wait: float = 0.2) -> None:
        self.network.feed(message)
        self.net.run(wait)

    def scripted(self) -> None:
        """Register with a scripted P-CSCF."""
        self.tell(ims.Start())
        register = self.script.request("REGISTER")
        contact = f"{register.headers.get('Contact')};expires=6000"
        self.send(answer_to(register, 200, "s", Contact=contact))
        self.send(answer_to(self.script.request("SUBSCRIBE"), 403, "s"))
        assert self.engine.status.state is State.REGISTERED

    def answer(self, status: int, tag: str = "", sdp: bytes = b"", **fields: Any) -> None:
        self.send(answer_to(self.script.request("INVITE"), status, tag, sdp, **fields))

    def from_elsewhere(self, request: Request, host: str) -> None:
        """A request over the UE's socket that does not come from its P-CSCF."""
        self.ue.feed(Received(request, Flow("UDP", UE, (host, 5060), 77)))
        self.net.run(0.2)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    return Bench


@pytest.fixture
def sdp() -> Callable[..., bytes]:
    return description


@pytest.fixture
def status_table() -> Callable[[str, str], tuple[str, ...]]:
    return table
