"""``imsbridge edge eims-agw``: strict configuration, check, health, metrics, draining."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from imskit.config.model import ConfigError, parse
from imskit.media.plane import Source
from imskit.media.python_plane import PythonPlane
from network_edge.eims_agw.config import AgwConfig
from network_edge.iq.gateway import TOWARDS_IMS, DeleteRequest, GatewayUnavailableError, OfferRequest
from network_edge.iq.ng_gateway import NgGateway
from simulators.media_ends import BrowserEnd

MEDIA = '[web]\naddress = "127.0.0.1"\n[ims]\naddress = "127.0.0.1"\n'


def test_the_smallest_configuration():
    config = parse(AgwConfig, MEDIA)
    assert config.source is Source.SAME_HOST and config.limits.calls == 2000
    assert [str(network) for network in config.networks] == ["127.0.0.1/32", "::1/128"]
    assert config.web.network.told == "127.0.0.1" and config.web.network.ports == range(49152, 65534)


@pytest.mark.parametrize(
    "text,says",
    [
        ("", "web"),
        ("callz = 3\n" + MEDIA, "callz"),
        ("calls = 0\n" + MEDIA, "calls"),
        ("grace = -1.0\n" + MEDIA, "less than 0"),
        ("control_port = 70000\n" + MEDIA, "control_port"),
        ('controllers = ["everybody"]\n' + MEDIA, "everybody"),
        ("controllers = []\n" + MEDIA, "nobody"),
        ('denied = ["inside"]\n' + MEDIA, "inside"),
        ('denied = ["127.0.0.0/8"]\n' + MEDIA, "own address"),
        ('rtp_source = "any"\n' + MEDIA, "rtp_source"),
        (MEDIA.replace("127.0.0.1", "localhost"), "localhost"),
        (MEDIA + "port_min = 5\n", "port_min"),
    ],
)
def test_what_is_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        parse(AgwConfig, text)


def free_port(kind=socket.SOCK_DGRAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.asynccontextmanager
async def program(directory: Path, text: str, command: str = "run"):
    path = directory / "agw.toml"
    path.write_text(text)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "imsbridge", "edge", "eims-agw", command, "-c", str(path),
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def until(process, words: str) -> None:
    async with asyncio.timeout(30):
        while line := await process.stderr.readline():
            if words in line.decode():
                return
    raise AssertionError(f"it ended without saying {words!r}")


async def test_running_calls_finish_and_new_ones_are_refused(tmp_path):
    """SIGTERM drains: health says so, a new call gets 'load limit', the end of the last call ends the program."""
    port, http = free_port(), free_port(socket.SOCK_STREAM)
    async with program(tmp_path, f"control_port = {port}\nhttp_port = {http}\n{MEDIA}") as process:
        await until(process, f"ready: eims-agw port {port}")
        gateway = await NgGateway.connect("127.0.0.1", port)
        browser = BrowserEnd(PythonPlane(), offers=True)
        await gateway.offer(OfferRequest("one", "web", browser.offer(), TOWARDS_IMS))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{http}") as session:
            async with session.get("/health") as answer:
                assert answer.status == 200 and await answer.json() == {"state": "up", "calls": 1}
            async with session.get("/metrics") as answer:
                text = await answer.text()
                assert "imsbridge_agw_calls 1.0" in text
                assert 'imsbridge_agw_events_total{event="offers"} 1.0' in text
                assert 'imsbridge_agw_control_total{command="OfferRequest"} 1.0' in text
            process.send_signal(signal.SIGTERM)
            await until(process, "draining")
            async with session.get("/health") as answer:
                assert answer.status == 503
        await gateway.ping()
        assert gateway.draining
        with pytest.raises(GatewayUnavailableError):
            await gateway.offer(OfferRequest("two", "web", browser.offer(), TOWARDS_IMS))
        await gateway.delete(DeleteRequest("one", delay=0))
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await gateway.close()
        await browser.close()


async def test_a_second_signal_ends_it_at_once(tmp_path):
    """With a call that would run for an hour."""
    port = free_port()
    async with program(tmp_path, f"control_port = {port}\n{MEDIA}") as process:
        await until(process, "ready:")
        gateway = await NgGateway.connect("127.0.0.1", port, watch=0)
        browser = BrowserEnd(PythonPlane(), offers=True)
        await gateway.offer(OfferRequest("one", "web", browser.offer(), TOWARDS_IMS))
        process.send_signal(signal.SIGTERM)
        await until(process, "draining: 1 calls")
        await gateway.ping()
        assert gateway.draining and process.returncode is None
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        await gateway.close()
        await browser.close()


async def test_check(tmp_path):
    async with program(tmp_path, MEDIA, "check") as process:
        output, _ = await process.communicate()
        assert process.returncode == 0 and b"good" in output
    async with program(tmp_path, MEDIA.replace("127.0.0.1", "198.51.100.77"), "check") as process:
        _, errors = await process.communicate()
        assert process.returncode == 1 and b"198.51.100.77 cannot be used" in errors
    async with program(tmp_path, "what = 1", "check") as process:
        _, errors = await process.communicate()
        assert process.returncode == 2 and b"what" in errors
