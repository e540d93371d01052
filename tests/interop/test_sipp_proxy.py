"""The transaction layer and the proxy core between SIPp processes: loss, forking, dialog routing, CANCEL (S7-IMS)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.sip.engine.events import SentBy
from imskit.sip.engine.proxy import (
    Forward,
    ForwardTarget,
    ProxyCore,
    RecordRoute,
    RelayResponse,
    ResponseReady,
    RouteRequest,
)
from imskit.sip.io.endpoint import Endpoint
from imskit.sip.wire.flow import Flow, Target
from imskit.sip.wire.uri import SipUri, parse_uri
from imskit.tasks import spawn

pytestmark = pytest.mark.interop

# SIPp's own scenarios send every request of a dialog to where the INVITE went; these follow the route set.
_FIELDS = """Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch{branch}]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]-[call_number]
To: <sip:service@[remote_ip]:[remote_port]>{to}
Call-ID: [call_id]
CSeq: {cseq}
Max-Forwards: 70
Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>
{routes}Content-Length: 0
"""


def _request(line: str, cseq: str, *, branch: str = "", to: str = "", routes: str = "", retrans: str = "") -> str:
    fields = _FIELDS.format(branch=branch, to=to, cseq=cseq, routes=routes)
    return f"<send {retrans}><![CDATA[\n{line} SIP/2.0\n{fields}\n]]></send>"


def _response(status: str, fields: str = "[last_Via:]\n[last_CSeq:]", retrans: str = "") -> str:
    return (
        f"<send {retrans}><![CDATA[\nSIP/2.0 {status}\n{fields}\n[last_From:]\n[last_To:];tag=b[pid]-[call_number]\n"
        "[last_Call-ID:]\n[last_Record-Route:]\nContact: <sip:[local_ip]:[local_port];transport=[transport]>\n"
        "Content-Length: 0\n\n]]></send>"
    )


_RETRANS = 'retrans="500"'
_INVITE = _request("INVITE sip:service@[remote_ip]:[remote_port]", "1 INVITE", retrans=_RETRANS)
_TRYING = '<recv response="100" optional="true"/>'
_DIALOG = {"to": "[peer_tag_param]", "routes": "[routes]\n"}

CALLER = [
    _INVITE,
    _TRYING,
    '<recv response="180" optional="true"/>',
    '<recv response="200" rrs="true"/>',
    _request("ACK [next_url]", "1 ACK", **_DIALOG),
    '<pause milliseconds="100"/>',
    _request("BYE [next_url]", "2 BYE", retrans=_RETRANS, **_DIALOG),
    _TRYING,
    '<recv response="200"/>',
]
CALLEE = [
    '<recv request="INVITE"/>',
    _response("180 Ringing"),
    _response("200 OK", retrans=_RETRANS),
    '<recv request="ACK"/>',
    '<recv request="BYE"/>',
    _response("200 OK").replace(";tag=b[pid]-[call_number]", ""),
]
CALLEE_THAT_WAITS = [
    *CALLEE,
    # A lost 200 to the BYE needs somebody to say it again.
    '<timewait milliseconds="4000"/>',
]
BUSY = ['<recv request="INVITE"/>', _response("486 Busy Here", retrans=_RETRANS), '<recv request="ACK"/>']
CALLER_THAT_GIVES_UP = [
    _INVITE,
    _TRYING,
    '<recv response="180"/>',
    # The branch of the INVITE, three and six steps back (RFC 3261 sections 9.1 and 17.1.1.3).
    _request("CANCEL sip:service@[remote_ip]:[remote_port]", "1 CANCEL", branch="-3"),
    '<recv response="200"/>',
    '<recv response="487"/>',
    _request("ACK sip:service@[remote_ip]:[remote_port]", "1 ACK", branch="-6", to="[peer_tag_param]"),
]
_VIA = '<ereg regexp=".*" search_in="hdr" header="Via:" occurrence="{0}" assign_to="via{0}"/>'
CALLEE_THAT_IS_CANCELLED = [
    f'<recv request="INVITE"><action>{_VIA.format(1)}{_VIA.format(2)}</action></recv>',
    _response("180 Ringing"),
    '<recv request="CANCEL"/>',
    _response("200 OK"),
    _response("487 Request Terminated", "Via:[$via1]\nVia:[$via2]\nCSeq: 1 INVITE", _RETRANS),
    '<recv request="ACK"/>',
]

type Route = Callable[[RouteRequest], tuple[ForwardTarget, ...]]


def _free_port() -> int:
    """Return a loopback port that is free for UDP and TCP."""
    while True:
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port: int = stream.getsockname()[1]
            with contextlib.suppress(OSError):
                datagram.bind(("127.0.0.1", port))
                return port


class Proxy:
    """A proxy core on one loopback port, UDP and TCP; ``route`` says where each request out of a dialog goes."""

    def __init__(self, route: Route) -> None:
        self.port = _free_port()
        self.route = route
        self.requests: list[RouteRequest] = []
        count = iter(range(1, 10**9))
        name = SentBy("127.0.0.1", self.port)
        self.core = ProxyCore(
            lambda digits: f"{next(count):0{digits}x}",
            own={("127.0.0.1", self.port)},
            sent_by={"UDP": name, "TCP": name},
        )
        self.endpoint: Endpoint[Any, Any] = Endpoint(self.core, self._output)

    def _output(self, output: Any) -> None:
        match output:
            case RouteRequest(context, request):
                self.requests.append(output)
                targets = (ForwardTarget(),) if request.to.tag else self.route(output)
                self.endpoint.handle(Forward(context, targets))
            case ResponseReady(context, response):
                self.endpoint.handle(RelayResponse(context, response))

    def target(self, port: int, transport: Any = "UDP", group: int = 0) -> ForwardTarget:
        """Ring a callee, staying in the dialog."""
        previous = parse_uri(f"sip:127.0.0.1:{self.port};lr")
        following = parse_uri(f"sip:127.0.0.1:{self.port};transport={transport.lower()};lr")
        assert isinstance(previous, SipUri)
        assert isinstance(following, SipUri)
        record_route = RecordRoute(previous, previous if transport == "UDP" else following)
        destination = (Target(transport, ("127.0.0.1", port)),)
        return ForwardTarget(f"sip:service@127.0.0.1:{port}", destination, record_route=record_route, group=group)

    def lose_everything_once(self) -> set[tuple[str, ...]]:
        """Lose the first copy of every message but ACK on either side; returns the set that fills with them.

        SIPp says its ACK once more only until it has sent the next request.
        """
        lost: set[tuple[str, ...]] = set()
        received, send = self.endpoint.received, self.endpoint.transports.send

        def first(direction: str, data: bytes) -> bool:
            head = data.decode()
            names = [re.search(rf"^{name}: *(.*)$", head, re.MULTILINE) for name in ("Via", "Call-ID", "CSeq")]
            message = (direction, head.partition("\r\n")[0], *(name[1] for name in names if name))
            if message in lost or head.startswith("ACK"):
                return False
            lost.add(message)
            return True

        def lossy_received(data: bytes, flow: Flow) -> None:
            if not first("in", data):
                received(data, flow)

        def lossy_send(data: bytes, destination: Flow | Target, failed: Callable[[str], None]) -> None:
            if not first("out", data):
                send(data, destination, failed)

        self.endpoint.received = lossy_received  # type: ignore[method-assign]
        self.endpoint.transports.send = lossy_send  # type: ignore[method-assign]
        return lost


@contextlib.asynccontextmanager
async def proxy(route: Callable[[Proxy], Route]) -> AsyncIterator[Proxy]:
    one = Proxy(lambda request: route(one)(request))
    await one.endpoint.listen("UDP", ("127.0.0.1", one.port))
    await one.endpoint.listen("TCP", ("127.0.0.1", one.port))
    try:
        yield one
    finally:
        await one.endpoint.close()


def _bound(port: int, transport: str) -> bool:
    kind = socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


class Sipp:
    """Runs SIPp processes in one directory; every call of each must end well."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[asyncio.Task[None]] = []

    async def callee(self, name: str, scenario: list[str], calls: int, port: int, *options: str) -> None:
        """Start one that waits for calls; returns when it listens."""
        self._start(name, scenario, calls, port, *options)
        # SIPp into a pipe says nothing before its end, so there is no event to wait for.
        while not _bound(port, "TCP" if "t1" in options else "UDP") and not self._running[-1].done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def call(self, scenario: list[str], calls: int, proxy: int, *options: str) -> None:
        """Place calls through the proxy, and wait until every process has ended."""
        self._start("caller", scenario, calls, _free_port(), *options, f"127.0.0.1:{proxy}")
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*self._running)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()

    def _start(self, name: str, scenario: list[str], calls: int, port: int, *options: str) -> None:
        file = self._directory / f"{name}.xml"
        steps = "\n".join(scenario)
        file.write_text(f'<?xml version="1.0" encoding="us-ascii" ?>\n<scenario name="{name}">\n{steps}\n</scenario>\n')
        command = ("-sf", str(file), "-m", str(calls), "-p", str(port), "-i", "127.0.0.1", *options)
        self._running.append(spawn(self._run(name, command), name))

    async def _run(self, name: str, options: tuple[str, ...]) -> None:
        process = await asyncio.create_subprocess_exec(
            "sipp", "-nostdin", "-timeout", "45", "-timeout_error", *options,
            cwd=self._directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        code = process.returncode
        assert code == 0, f"{name} ended with {code}:\n{output.decode(errors='replace')[-4000:]}"


@pytest.fixture
def sipp(tmp_path: Path) -> Sipp:
    return Sipp(tmp_path)


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_calls_follow_the_route_set(sipp: Sipp, transport: str) -> None:
    """UDP caller; the TCP callee is behind a double Record-Route."""
    port = _free_port()
    async with proxy(lambda one: lambda _: (one.target(port, transport),)) as one:
        await sipp.callee("callee", CALLEE, 10, port, *(["-t", "t1"] if transport == "TCP" else []))
        await sipp.call(CALLER, 10, one.port, "-r", "20")
        methods = [request.request.method for request in one.requests]
        assert [methods.count(method) for method in ("INVITE", "ACK", "BYE")] == [10, 10, 10]
        own = [len(request.own_routes) for request in one.requests if request.request.to.tag]
        assert own == [1 if transport == "UDP" else 2] * 20


async def test_calls_survive_loss(sipp: Sipp) -> None:
    """Every message on either side of the proxy is lost once; retransmission on every hop makes up for it."""
    port = _free_port()
    async with proxy(lambda one: lambda _: (one.target(port),)) as one:
        lost = one.lose_everything_once()
        await sipp.callee("callee", CALLEE_THAT_WAITS, 10, port)
        await sipp.call(CALLER, 10, one.port, "-r", "20")
        for line in ("INVITE", "SIP/2.0 200", "BYE"):
            directions = [message[0] for message in lost if message[1].startswith(line)]
            assert min(directions.count("in"), directions.count("out")) >= 10, line


@pytest.mark.parametrize("group", [0, 1], ids=["parallel", "sequential"])
async def test_busy_callee_beside_one_that_answers(sipp: Sipp, group: int) -> None:
    """Forking: the 486 is acknowledged by the proxy and never seen by the caller."""
    busy, free = _free_port(), _free_port()
    async with proxy(lambda one: lambda _: (one.target(busy), one.target(free, "UDP", group))) as one:
        await sipp.callee("busy", BUSY, 5, busy)
        await sipp.callee("callee", CALLEE, 5, free)
        await sipp.call(CALLER, 5, one.port)


async def test_caller_gives_up(sipp: Sipp) -> None:
    """CANCEL, its 200, the 487 and the ACK on both hops."""
    port = _free_port()
    async with proxy(lambda one: lambda _: (one.target(port),)) as one:
        await sipp.callee("callee", CALLEE_THAT_IS_CANCELLED, 5, port)
        await sipp.call(CALLER_THAT_GIVES_UP, 5, one.port)
