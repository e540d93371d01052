"""The user agent against SIPp over UDP and TCP: both roles, 100rel, UPDATE, late offer, CANCEL, re-INVITE (S7-IMS)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from imskit.sip.engine import user_agent as ua
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Target
from imskit.tasks import spawn

pytestmark = pytest.mark.interop

SDP = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"


def _free_port() -> int:
    """Return a loopback port that is free for UDP and TCP."""
    while True:
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port: int = stream.getsockname()[1]
            with contextlib.suppress(OSError):
                datagram.bind(("127.0.0.1", port))
                return port


def _bound(port: int, transport: str) -> bool:
    """Look whether somebody has a port; trying it would be in SIPp's way."""
    table = Path("/proc/net/udp" if transport == "UDP" else "/proc/net/tcp")
    return f" 0100007F:{port:04X} " in table.read_text()


class Agent:
    """A user agent on one loopback port; the test waits for its outputs one by one."""

    def __init__(self, port: int, peer: Target) -> None:
        self.port = port
        name = ua.SentBy("127.0.0.1", port)
        profile = ua.Profile(f"<sip:agent@127.0.0.1:{port};transport={peer.transport.lower()}>", hop=peer)
        engine = ua.UserAgent(
            profile, lambda digits: secrets.token_hex(digits)[:digits], sent_by={"UDP": name, "TCP": name}
        )
        self.engine = engine
        self.endpoint: Endpoint[Any, Any] = Endpoint(engine, self._take)
        self.outputs: list[Any] = []
        self._new = asyncio.Event()

    def _take(self, output: Any) -> None:
        self.outputs.append(output)
        self._new.set()

    def do(self, command: Any) -> None:
        """Give a command."""
        self.endpoint.handle(command)
        assert not [output for output in self.outputs if isinstance(output, ua.Refused)]

    async def wait[T](self, kind: type[T], **fields: Any) -> T:
        """Wait for the next output of a kind; what came before it is forgotten."""
        async with asyncio.timeout(40):
            while True:
                while self.outputs:
                    output = self.outputs.pop(0)
                    if isinstance(output, kind) and all(getattr(output, n) == v for n, v in fields.items()):
                        return output
                self._new.clear()
                await self._new.wait()

    def call(self, port: int, sdp: bytes | None = SDP, **fields: Any) -> None:
        """Call SIPp."""
        to = f"sip:service@127.0.0.1:{port}"
        self.do(ua.Call("call", to, f"<sip:agent@127.0.0.1:{self.port}>", f"<{to}>", sdp=sdp, **fields))


@contextlib.asynccontextmanager
async def agent(sipp_port: int, transport: Any = "UDP") -> AsyncIterator[Agent]:
    one = Agent(_free_port(), Target(transport, ("127.0.0.1", sipp_port)))
    await one.endpoint.listen("UDP", ("127.0.0.1", one.port))
    await one.endpoint.listen("TCP", ("127.0.0.1", one.port))
    try:
        yield one
    finally:
        await one.endpoint.close()


class Sipp:
    """One SIPp process, and its verdict."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._task: asyncio.Task[None] | None = None

    def start(self, port: int, *options: str, steps: list[str] | None = None) -> None:
        """Start it with one of its own scenarios (``-sn`` among the options) or with ``steps``."""
        if steps is not None:
            text = "\n".join(steps)
            file = self._directory / "scenario.xml"
            file.write_text(f'<?xml version="1.0" encoding="us-ascii" ?>\n<scenario name="x">\n{text}\n</scenario>\n')
            options = ("-sf", str(file), *options)
        self._task = spawn(self._run(("-m", "1", "-p", str(port), "-i", "127.0.0.1", *options)), "sipp")

    async def listening(self, port: int, transport: str) -> None:
        """Wait until it has its port: it says nothing, so there is no event to wait for."""
        assert self._task is not None
        while not self._task.done():
            if _bound(port, transport):
                return
            await asyncio.sleep(0.01)
        await self._task

    async def ended_well(self) -> None:
        """Wait for its end; every step must have gone as the scenario says."""
        assert self._task is not None
        await self._task

    async def _run(self, options: tuple[str, ...]) -> None:
        process = await asyncio.create_subprocess_exec(
            "sipp", "-nostdin", "-timeout", "60", "-timeout_error", *options,
            cwd=self._directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        code = process.returncode
        assert code == 0, f"sipp ended with {code}:\n{output.decode(errors='replace')[-4000:]}"


@pytest.fixture
def sipp(tmp_path: Path) -> Sipp:
    return Sipp(tmp_path)


def _mode(transport: str) -> tuple[str, str]:
    return "-t", "u1" if transport == "UDP" else "t1"


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_calling_sipp_s_own_callee(sipp: Sipp, transport: str) -> None:
    """``sipp -sn uas``: 180, 200, ACK, BYE."""
    port = _free_port()
    sipp.start(port, "-sn", "uas", *_mode(transport))
    await sipp.listening(port, transport)
    async with agent(port, transport) as one:
        one.call(port)
        assert (await one.wait(ua.AnswerReceived)).sdp.startswith(b"v=0")
        await one.wait(ua.Answered)
        one.do(ua.Hangup("call"))
        assert (await one.wait(ua.Ended)).cause is ua.Cause.LOCAL
        await sipp.ended_well()


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_called_by_sipp_s_own_caller(sipp: Sipp, transport: str) -> None:
    """``sipp -sn uac``: INVITE, ACK, BYE."""
    port = _free_port()
    async with agent(port, transport) as one:
        sipp.start(port, "-sn", "uac", "-d", "200", *_mode(transport), f"127.0.0.1:{one.port}")
        call = await one.wait(ua.IncomingCall)
        one.do(ua.Provisional(call.call))
        one.do(ua.Answer(call.call, SDP))
        await one.wait(ua.Confirmed)
        assert (await one.wait(ua.Ended)).cause is ua.Cause.REMOTE
        await sipp.ended_well()


# ---- scenarios of 3GPP calls, from SIPp's side ------------------------------------------------------------------

_SDP = SDP.decode().replace("\r\n", "\n")


def _send(line: str, cseq: str, *, to: str = "", fields: str = "", sdp: bool = False, retrans: bool = True) -> str:
    body = f"Content-Type: application/sdp\nContent-Length: [len]\n\n{_SDP}" if sdp else "Content-Length: 0\n\n"
    timer = ' retrans="500"' if retrans else ""
    return (
        f"<send{timer}><![CDATA[\n{line} SIP/2.0\nVia: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]\n"
        "From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]s[call_number]\n"
        f"To: <sip:agent@[remote_ip]:[remote_port]>{to}\nCall-ID: [call_id]\nCSeq: {cseq}\nMax-Forwards: 70\n"
        f"Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>\n{fields}{body}]]></send>"
    )


def _reply(status: str, *, fields: str = "", sdp: bool = False, retrans: bool = False, tag: bool = True) -> str:
    body = f"Content-Type: application/sdp\nContent-Length: [len]\n\n{_SDP}" if sdp else "Content-Length: 0\n\n"
    timer = ' retrans="500"' if retrans else ""
    to = "[last_To:];tag=b[pid]s[call_number]" if tag else "[last_To:]"
    return (
        f"<send{timer}><![CDATA[\nSIP/2.0 {status}\n[last_Via:]\n[last_From:]\n{to}\n[last_Call-ID:]\n[last_CSeq:]\n"
        f"Contact: <sip:[local_ip]:[local_port];transport=[transport]>\n{fields}{body}]]></send>"
    )


_URI = "sip:agent@[remote_ip]:[remote_port]"
_PEER = {"to": "[peer_tag_param]"}
_RSEQ = (
    '<recv response="{0}"><action><ereg regexp="[0-9]+" search_in="hdr" header="RSeq:" check_it="true" '
    'assign_to="rseq"/></action></recv>'
)
CALLER_WITH_100REL = [
    _send(f"INVITE {_URI}", "1 INVITE", fields="Supported: 100rel\nAllow: UPDATE, PRACK, INVITE\n", sdp=True),
    '<recv response="100" optional="true"/>',
    _RSEQ.format(183),
    _send("PRACK [next_url]", "2 PRACK", fields="RAck: [$rseq] 1 INVITE\n", **_PEER),
    '<recv response="200"/>',
    _send("UPDATE [next_url]", "3 UPDATE", sdp=True, **_PEER),
    '<recv response="200"/>',
    _RSEQ.format(180),
    _send("PRACK [next_url]", "4 PRACK", fields="RAck: [$rseq] 1 INVITE\n", **_PEER),
    '<recv response="200"/>',
    '<recv response="200"/>',
    _send("ACK [next_url]", "1 ACK", retrans=False, **_PEER),
    '<recv request="INVITE"/>',
    _reply("200 OK", sdp=True, retrans=True, tag=False),
    '<recv request="ACK"/>',
    '<recv request="BYE"/>',
    _reply("200 OK", tag=False),
]


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_called_with_100rel_update_then_re_invite(sipp: Sipp, transport: str) -> None:
    """INVITE, 183, PRACK, UPDATE, 180, PRACK, 200, ACK, then a re-INVITE and the BYE from here."""
    port = _free_port()
    steps = [step.replace("[next_url]", _URI) for step in CALLER_WITH_100REL]
    async with agent(port, transport) as one:
        sipp.start(port, *_mode(transport), f"127.0.0.1:{one.port}", steps=steps)
        call = (await one.wait(ua.IncomingCall)).call
        one.do(ua.Provisional(call, 183, sdp=SDP))
        assert (await one.wait(ua.PrackReceived)).status == 183
        offer = await one.wait(ua.OfferReceived)
        assert offer.carrier is ua.Carrier.UPDATE
        one.do(ua.AnswerOffer(offer.exchange, SDP))
        one.do(ua.Provisional(call, 180, reliable=True))
        assert (await one.wait(ua.PrackReceived)).status == 180
        one.do(ua.Answer(call))
        await one.wait(ua.Confirmed)
        one.do(ua.Modify(call, SDP, "INVITE"))
        assert (await one.wait(ua.AnswerReceived)).carrier is ua.Carrier.SUCCESS
        one.do(ua.Hangup(call))
        await sipp.ended_well()
        assert one.engine.calls == ()


_RACK = '<ereg regexp="^ *7 [0-9]+ INVITE" search_in="hdr" header="RAck:" check_it="true" assign_to="rack"/>'
CALLEE_WITH_100REL = [
    '<recv request="INVITE"><action><ereg regexp="100rel" search_in="hdr" header="Supported:" check_it="true" '
    'assign_to="supported"/><ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>'
    '<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="cseq"/></action></recv>',
    _reply("183 Session Progress", fields="Require: 100rel\nRSeq: 7\nAllow: UPDATE, INVITE\n", sdp=True),
    f'<recv request="PRACK"><action>{_RACK}</action></recv>',
    _reply("200 OK", tag=False),
    '<recv request="UPDATE"/>',
    _reply("200 OK", sdp=True, tag=False),
    # The INVITE's answer, long after: its Via and CSeq were kept.
    _reply("200 OK", retrans=True, tag=False)
    .replace("[last_Via:]", "Via:[$via]")
    .replace("[last_CSeq:]", "CSeq:[$cseq]"),
    '<recv request="ACK"/>',
    '<recv request="BYE"/>',
    _reply("200 OK", tag=False),
    '<Reference variables="supported,rack"/>',
]


async def test_calling_with_100rel_and_update(sipp: Sipp) -> None:
    port = _free_port()
    sipp.start(port, "-t", "u1", steps=CALLEE_WITH_100REL)
    await sipp.listening(port, "UDP")
    async with agent(port) as one:
        one.call(port)
        early = await one.wait(ua.AnswerReceived)
        assert early.carrier is ua.Carrier.PROVISIONAL and not early.preview
        one.do(ua.Modify("call", SDP))
        assert (await one.wait(ua.AnswerReceived)).carrier is ua.Carrier.UPDATE
        await one.wait(ua.Answered)
        one.do(ua.Hangup("call"))
        await sipp.ended_well()


# A callee's BYE: From and To of the ACK change places.
_BYE_BACK = (
    '<send retrans="500"><![CDATA[\nBYE [$contact] SIP/2.0\n'
    "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]\n"
    "From:[$to]\nTo:[$from]\n[last_Call-ID:]\nCSeq: 1 BYE\nMax-Forwards: 70\nContent-Length: 0\n\n]]></send>"
)
CALLEE_THAT_OFFERS = [
    '<recv request="INVITE"><action><ereg regexp="sip:[^>]*" search_in="hdr" header="Contact:" assign_to="contact"/>'
    "</action></recv>",
    _reply("200 OK", sdp=True, retrans=True),
    '<recv request="ACK"><action><ereg regexp="m=audio" search_in="body" check_it="true" assign_to="sdp"/>'
    '<ereg regexp=".*" search_in="hdr" header="From:" assign_to="from"/>'
    '<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/></action></recv>',
    _BYE_BACK,
    '<recv response="200"/>',
    '<Reference variables="sdp"/>',
]


async def test_late_offer(sipp: Sipp) -> None:
    """The answer goes in the ACK, which waits for the owner."""
    port = _free_port()
    sipp.start(port, "-t", "u1", steps=CALLEE_THAT_OFFERS)
    await sipp.listening(port, "UDP")
    async with agent(port) as one:
        one.call(port, None)
        offer = await one.wait(ua.OfferReceived)
        await one.wait(ua.Answered)
        assert offer.carrier is ua.Carrier.SUCCESS
        one.do(ua.AnswerOffer(offer.exchange, SDP))
        assert (await one.wait(ua.Ended)).cause is ua.Cause.REMOTE
        await sipp.ended_well()


CALLEE_THAT_IS_CANCELLED = [
    '<recv request="INVITE"><action><ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>'
    '<ereg regexp="[0-9]+" search_in="hdr" header="CSeq:" assign_to="cseq"/></action></recv>',
    _reply("180 Ringing"),
    '<recv request="CANCEL"><action><ereg regexp="cause=200" search_in="hdr" header="Reason:" check_it="true" '
    'assign_to="reason"/></action></recv>',
    _reply("200 OK"),
    _reply("487 Request Terminated", retrans=True).replace("[last_CSeq:]", "CSeq: [$cseq] INVITE"),
    '<recv request="ACK"/>',
    '<Reference variables="via,reason"/>',
]


async def test_cancel(sipp: Sipp) -> None:
    port = _free_port()
    sipp.start(port, "-t", "u1", steps=CALLEE_THAT_IS_CANCELLED)
    await sipp.listening(port, "UDP")
    async with agent(port) as one:
        one.call(port)
        await one.wait(ua.Progress)
        one.do(ua.Hangup("call", (("Reason", "SIP;cause=200"),)))
        ended = await one.wait(ua.Ended)
        assert ended.cause is ua.Cause.LOCAL
        await sipp.ended_well()
