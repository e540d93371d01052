"""The eIMS-AGW beside rtpengine as both are used: CPU a packet and a frame, memory a call.

Run it as ``python -m bench.gateway [--json FILE]``.  Both run in user space on loopback and are steered by the same NG
commands (offer, answer, delete); the same ends with real ICE and DTLS speak through both in turn.  What comes out is
checked: authenticated by SRTP, and every call must sound as the far end spoke.  ``bench.media`` is the same media
plane under higher loads, with prepared packets and SDES keys.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import uvloop

from bench.measure import CpuMeter, Row, Sample, interleaved, main
from bench.media import rtpengine_version
from imskit.media.events import Step
from imskit.media.python_plane import PythonPlane
from imskit.sdp.profile import AMR_WB_OCTET_ALIGNED, OPUS, PCMA, Format
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_WEB,
    AnswerRequest,
    CodecFlags,
    DeleteRequest,
    GatewayUnavailableError,
    OfferRequest,
)
from network_edge.iq.ng_gateway import NgGateway
from simulators.media_ends import BrowserEnd, PhoneEnd

FORWARD_CALLS, TRANSCODE_CALLS, MEMORY_CALLS = 8, 3, 60
FORWARD_GOAL = 1.5
TRANSCODE_GOAL = 0.8
_TONES = (500.0, 900.0)
_OFF_HERTZ = 30


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[NgGateway]:
    gateway = await NgGateway.connect("127.0.0.1", port, watch=0)
    try:
        yield gateway
    finally:
        await gateway.close()


async def _up(port: int, process: subprocess.Popen[bytes]) -> None:
    async with _connected(port) as gateway, asyncio.timeout(60):
        while True:
            try:
                return await gateway.ping()
            except GatewayUnavailableError:
                if process.poll() is not None:
                    raise SystemExit(f"{process.args!r} does not start") from None


async def _call(gateway: NgGateway, name: str, browser: BrowserEnd, phone: PhoneEnd, flags: CodecFlags) -> None:
    towards_ims = replace(TOWARDS_IMS, codec=flags)
    offer = await gateway.offer(OfferRequest(name, "web", browser.offer(), towards_ims))
    answer = phone.take_offer(offer)
    browser.take_answer(await gateway.answer(AnswerRequest(name, "web", "ims", answer, TOWARDS_WEB)))
    await browser.until(Step.DTLS_CONNECTED, timeout=30)


async def _run(port: int, pid: int, calls: int, web: Format, ims: Format, seconds: float) -> Sample:
    flags = CodecFlags() if web == ims else CodecFlags(transcode=(ims.encoding,), mask=(web.encoding,))
    plane = PythonPlane()
    pairs = [(BrowserEnd(plane, offers=True, formats=(web,)), PhoneEnd(plane, formats=(ims,))) for _ in range(calls)]
    ends = [end for pair in pairs for end in pair]
    async with _connected(port) as gateway:
        try:
            for number, (browser, phone) in enumerate(pairs):
                await _call(gateway, str(number), browser, phone, flags)
            meter = CpuMeter(pid)
            before, had = meter.read(), sum(len(end.packets) for end in ends)
            async with asyncio.TaskGroup() as group:
                for browser, phone in pairs:
                    group.create_task(browser.talk(_TONES[0], seconds))
                    group.create_task(phone.talk(_TONES[1], seconds))
            await asyncio.sleep(0.1)  # what is still on its way
            cpu = meter.read() - before
            received = sum(len(end.packets) for end in ends) - had
            off = sum(
                abs(end.pitch() - tone) > _OFF_HERTZ
                for pair in pairs
                for end, tone in zip(pair, reversed(_TONES), strict=True)
            )
            for number in range(calls):
                await gateway.delete(DeleteRequest(str(number), "web", delay=0))
        finally:
            for browser, phone in pairs:
                await browser.close()
                phone.close()
    sent = len(ends) * round(seconds * 50)
    return Sample(cpu, received, seconds, lost=max(0, sent - received), wrong=off)


async def _memory(port: int, pid: int, calls: int) -> float:
    """KiB of memory of its own (USS) that the gateway takes for a call that is connected, above one call's."""
    plane = PythonPlane()
    pairs = [(BrowserEnd(plane, offers=True, formats=(PCMA,)), PhoneEnd(plane, formats=(PCMA,))) for _ in range(calls)]
    process = psutil.Process(pid)
    base = 0
    async with _connected(port) as gateway:
        try:
            for number, (browser, phone) in enumerate(pairs):
                await _call(gateway, str(number), browser, phone, CodecFlags())
                if not number:
                    base = process.memory_full_info().uss
            grown = process.memory_full_info().uss - base
            for number in range(calls):
                await gateway.delete(DeleteRequest(str(number), "web", delay=0))
        finally:
            for browser, phone in pairs:
                await browser.close()
                phone.close()
    return round(grown / 1024 / (calls - 1), 1)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Measure memory, forwarding and transcoding."""
    if shutil.which("rtpengine") is None:
        raise SystemExit("bench.gateway needs rtpengine: apt-get install rtpengine-daemon libavcodec-extra")
    logging.getLogger("imskit").setLevel(logging.ERROR)  # each deletion closes a leg here
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        ports = {"imsbridge": _free_port(), "rtpengine": _free_port()}
        configuration = Path(directory) / "agw.toml"
        configuration.write_text(
            f"control_port = {ports['imsbridge']}\n"
            '[web]\naddress = "127.0.0.1"\nport_min = 40000\nport_max = 44999\n'
            '[ims]\naddress = "127.0.0.1"\nport_min = 45000\nport_max = 48999\n'
        )
        commands = {
            "imsbridge": [
                sys.executable, "-m", "imsbridge", "edge", "eims-agw", "run", "-c", str(configuration),
                "--log-level", "error",
            ],
            "rtpengine": [
                "rtpengine", "--config-file=none", "--table=-1", "--interface=127.0.0.1",
                f"--listen-ng=127.0.0.1:{ports['rtpengine']}", "--port-min=30000", "--port-max=38998", "--foreground",
                "--log-stderr", "--log-level=2", f"--pidfile={directory}/pid", "--delete-delay=0",
            ],
        }  # fmt: skip
        pids: dict[str, int] = {}
        for name, command in commands.items():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait, 10)
            stack.callback(process.terminate)
            uvloop.run(_up(ports[name], process))
            pids[name] = process.pid

        def samples(calls: int, web: Format, ims: Format) -> dict[str, list[Sample]]:
            def one(name: str) -> Callable[[], Sample]:
                return lambda: uvloop.run(_run(ports[name], pids[name], calls, web, ims, arguments.seconds))

            return interleaved({name: one(name) for name in commands}, arguments.runs)

        # First, as what a program has once taken for calls it keeps.
        memory = {name: uvloop.run(_memory(ports[name], pids[name], MEMORY_CALLS)) for name in commands}
        rows.append(
            Row(
                "memory, DTLS-SRTP <-> RTP",
                f"{MEMORY_CALLS} calls",
                "KiB/call",
                memory["imsbridge"],
                memory["rtpengine"],
                rtpengine_version(),
            )
        )
        for work, calls, web, ims, unit, goal in (
            ("DTLS-SRTP <-> RTP", FORWARD_CALLS, PCMA, PCMA, "CPU us/packet", FORWARD_GOAL),
            ("Opus <-> AMR-WB, DTLS", TRANSCODE_CALLS, OPUS, AMR_WB_OCTET_ALIGNED, "CPU us/frame", TRANSCODE_GOAL),
        ):
            found = samples(calls, web, ims)
            rows.append(
                Row.of(
                    work,
                    f"{calls} calls, {100 * calls} packets/s",
                    unit,
                    found["imsbridge"],
                    found["rtpengine"],
                    peer=rtpengine_version(),
                    goal=goal,
                    note="" if web == ims else "codec settings differ: see bench.media",
                )
            )
    return rows


if __name__ == "__main__":
    sys.exit(main("Media gateway beside rtpengine, through the NG protocol.", measure))
