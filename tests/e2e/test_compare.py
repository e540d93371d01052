"""The comparison, beside another program's view of the same calls.

X-COMPARE; issue 4, done-when 3.  Tolerances: what two programs on one machine see of the same moment lies within
`MOMENT_MS` of each other on a busy one; packet counts within `PACKETS_PERCENT`, because the comparison counts from the
opening of a page to its call's end, and tshark all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from simulators.impairment.engine import Impairment
from simulators.impairment.plug import Plug, impair
from simulators.lab.compare.comparison import Comparison
from simulators.lab.compare.html import render
from simulators.lab.compare.lab_system import LabSystem
from simulators.lab.compare.model import Path as Way
from simulators.lab.compare.model import Report
from simulators.lab.host import Host
from simulators.lab.topology import Topology

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(700), pytest.mark.asyncio(loop_scope="module")]

CALLS = 2
MOMENT_MS = 300.0
PACKETS_PERCENT = 2.0
FILTER = "udp or (tcp and (host 10.45.0.2 or host 10.45.0.3))"
WAYS = pytest.mark.parametrize("way", list(Way))
SIP = {Way.UE: "sip && ip.addr == 10.45.0.1", Way.EDGE: "sip && ip.addr == 10.45.0.1 && ip.addr == 10.45.0.3"}
"""On Gm, and on Mw."""
MEDIA = {Way.UE: "10.45.0.2", Way.EDGE: "10.45.0.3"}
"""The gateway's address towards the phone."""


@dataclass
class Run:
    """A comparison, and a capture at each path's gateway."""

    report: Report
    captures: dict[Way, Path]

    def tshark(self, way: Way, wanted: str, *fields: str) -> list[list[str]]:
        argv = ["tshark", "-n", "-r", str(self.captures[way]), "-Y", wanted, "-T", "fields"]
        for field in ("frame.time_epoch", *fields):
            argv += ["-e", field]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def steps(self, way: Way) -> list[dict[str, float]]:
        """Of each call: when its INVITE, 180 and 200 passed first, seconds."""
        found: dict[str, dict[str, float]] = {}
        fields = "sip.Call-ID", "sip.Method", "sip.Status-Code"
        for at, call, method, status in self.tshark(way, f"{SIP[way]} && sip.CSeq.method == INVITE", *fields):
            found.setdefault(call, {}).setdefault(method or status, float(at))
        return list(found.values())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(root: Path) -> Run:
    system = LabSystem(root, lambda text: None)
    comparison = Comparison(system, CALLS, list(Way), lambda text: None)
    net = system.lab.net
    captures = {}
    for way, host in ((Way.UE, net.handset), (Way.EDGE, net.operator)):
        captures[way] = root / f"{way}.pcapng"
        argv = ["tshark", "-q", "-i", "any", "-f", FILTER, "-w", str(captures[way])]
        await host.start("tshark", argv, ready="Capturing on")
    return Run(await comparison.run(), captures)


async def test_every_call_is_made_and_every_figure_measured(run: Run) -> None:
    assert run.report.ok, run.report.error or [call.error for call in run.report.calls]
    assert [call.path for call in run.report.calls] == [Way.UE, Way.EDGE] * CALLS
    signalling = {Way.UE: "Gm", Way.EDGE: "Mw"}
    elements = {Way.UE: "agent", Way.EDGE: "edge"}
    for call in run.report.calls:
        # A machine that never runs evenly may be said to be one, and nothing else may be missing.
        assert all("evenly" in reason for reason in call.reasons.values()), call.reasons
        assert set(call.points) == {"W1", "W2", "W3", signalling[call.path], "Mb"}
        assert {"browser", elements[call.path], "core"} <= set(call.elements)
        assert call.codecs == {"browser_sends": "opus", "browser_receives": "opus", "phone": "AMR-WB"}
        assert 0 < call.values.get("delay_to_phone_ms", 1) < 1000
        assert 0 < call.values.get("delay_to_browser_ms", 1) < 1000


@WAYS
async def test_set_up_times_are_those_that_tshark_sees(run: Run, way: Way) -> None:
    seen = run.steps(way)
    assert len(seen) == CALLS
    for call, steps in zip(run.report.of(way), seen, strict=True):
        ringing = call.values["time_to_answer_ms"] - call.values["post_dial_delay_ms"]
        assert ringing == pytest.approx(1000 * (steps["200"] - steps["180"]), abs=MOMENT_MS)
        # The page's figure begins with the click: microphone, ICE and the gateway are part of it.
        assert 1000 * (steps["180"] - steps["INVITE"]) - MOMENT_MS < call.values["post_dial_delay_ms"]


@WAYS
async def test_first_packet_is_where_tshark_sees_it(run: Run, way: Way) -> None:
    """From the 180 to the first RTP towards the phone; the phone's own record comes a hop later."""
    rows = run.tshark(way, f"udp && ip.src == {MEDIA[way]} && ip.dst == 10.46.0.2")
    media = [float(row[0]) for row in rows]
    for call, steps in zip(run.report.of(way), run.steps(way), strict=True):
        first = min(at for at in media if at > steps["INVITE"])
        ours = call.values["first_to_phone_ms"] - call.values["post_dial_delay_ms"]
        assert ours == pytest.approx(1000 * (first - steps["180"]), abs=MOMENT_MS)


@pytest.mark.parametrize(
    ("way", "point", "wanted"),
    [
        (Way.UE, "Mb", "udp && ip.addr == 10.45.0.2 && ip.addr == 10.46.0.2"),
        (Way.UE, "W3", "udp && ip.addr == 10.99.0.1"),
        (Way.EDGE, "Mb", "udp && ip.addr == 10.45.0.3 && ip.addr == 10.46.0.2"),
        (Way.EDGE, "W3", "udp && ip.addr == 203.0.113.3 && ip.addr == 203.0.113.12"),
    ],
)
async def test_packets_and_bytes_are_those_that_tshark_sees(run: Run, way: Way, point: str, wanted: str) -> None:
    seen = run.tshark(way, wanted, "ip.len")
    ours = [call.points[point] for call in run.report.of(way)]
    packets, octets = sum(item.packets or 0 for item in ours), sum(item.bytes or 0 for item in ours)
    assert packets > CALLS * 1000
    assert packets == pytest.approx(len(seen), rel=PACKETS_PERCENT / 100)
    assert octets == pytest.approx(sum(int(row[1]) for row in seen), rel=PACKETS_PERCENT / 100)


@pytest.mark.parametrize(("way", "point"), [(Way.UE, "Gm"), (Way.EDGE, "Mw")])
async def test_messages_of_calls_are_those_that_tshark_sees(run: Run, way: Way, point: str) -> None:
    """Registrations, subscriptions and their ends fall into the time of a call too: tshark sees those as well."""
    methods = "{INVITE, ACK, PRACK, UPDATE, BYE, CANCEL}"
    in_calls = run.tshark(way, f"{SIP[way]} && sip.CSeq.method in {methods}")
    everything = run.tshark(way, SIP[way])
    ours = sum(call.points[point].messages or 0 for call in run.report.of(way))
    assert len(in_calls) <= ours <= len(everything)


async def test_report_of_it(run: Run) -> None:
    again = Report.from_json(json.dumps(run.report.as_json()))
    document = render(again)
    assert document.count("<svg") > 5
    assert "/tmp" not in document


@pytest.mark.parametrize("kernel", [False, True])
async def test_an_impaired_link_delays_and_loses(world: None, tmp_path: Path, kernel: bool) -> None:
    """In user space on every kernel; by netem on those that have it: the same to the hosts, whose addresses stay."""

    async with contextlib.AsyncExitStack() as stack:
        net = Topology(tmp_path / "net")
        stack.push_async_callback(net.stop)
        near, far = Plug(net.handset, "wan0"), Plug(net.operator, "wan0")
        before = _addresses(net.handset)
        wanted = Impairment(loss=0.2, delay=0.03, jitter=0.01)
        by = await impair(near, far, wanted, stack, tmp_path, kernel=kernel)
        assert by == "user space" if not kernel else by in ("user space", "kernel (netem)")
        assert _addresses(net.handset) == before
        for one, other, address in (
            (net.handset, net.operator, "203.0.113.10"),
            (net.operator, net.handset, "203.0.113.2"),
        ):
            delays = await _delays(one, other, address, 400)
            # 400 draws at 20 %: four standard deviations are 8 %.
            assert 1 - len(delays) / 400 == pytest.approx(0.2, abs=0.08)
            assert min(delays) >= 0.019
            assert sum(delays) / len(delays) >= 0.027


async def _delays(sender: Host, receiver: Host, address: str, count: int) -> list[float]:
    """Send datagrams; returns how long those took that arrived, seconds."""
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    with (
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
    ):
        target.bind((address, 0))
        began, ended = asyncio.Event(), asyncio.Event()

        async def say(word: bytes, heard: asyncio.Event) -> None:
            async with asyncio.timeout(20):
                while not heard.is_set():
                    await loop.sock_sendto(source, word, target.getsockname())
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(heard.wait(), 0.2)

        def arrived() -> None:
            said = target.recv(100)
            if said == b"hello":
                began.set()
            elif said == b"end":
                ended.set()
            else:
                delays.append(loop.time() - float(said))

        loop.add_reader(target, arrived)
        try:
            await say(b"hello", began)  # the neighbour's address may have been lost, too
            for _ in range(count):
                await loop.sock_sendto(source, repr(loop.time()).encode(), target.getsockname())
                await asyncio.sleep(0.002)  # the pace of the traffic, not a wait
            await say(b"end", ended)
        finally:
            loop.remove_reader(target)
    return delays


def _addresses(host: Host) -> list[object]:
    links = json.loads(host.run("ip", "-j", "address", "show", "dev", "wan0"))
    routes = json.loads(host.run("ip", "-j", "route", "show", "dev", "wan0"))
    own = [(item["local"], item["prefixlen"]) for item in links[0]["addr_info"] if item["family"] == "inet"]
    return [links[0]["address"], own, sorted((route["dst"], route.get("gateway", "")) for route in routes)]
