"""``imsbridge doctor -c edge.toml``: what the network edge needs, each with its cure."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
from pathlib import Path

import pytest
from aiohttp import web

from imsbridge.cli import main
from imsbridge.doctor import edge, options
from imskit.secrets import Secret
from network_edge.certificate import ensure_certificate
from network_edge.config import EdgeConfig, load_edge
from network_edge.ep_cscf.config import IssuerConfig
from simulators.ims_core.config import CoreConfig
from simulators.ims_core.config import EdgeConfig as TrustedEdge
from simulators.ims_core.core import ImsCore
from simulators.ims_core.subscribers import WebSubscriberConfig

HOME = "ims.example"
NOW = datetime.datetime.now(datetime.UTC)
EDGE = """
home_domain = "ims.example"
core = "{core}"
web_address = "127.0.0.1"
ims_address = "127.0.0.2"
"""


def written(folder: Path, core: str = "127.0.0.1:5062", more: str = "") -> Path:
    path = folder / "edge.toml"
    path.write_text(EDGE.format(core=core) + more)
    return path


def config(folder: Path, core: str = "127.0.0.1:5062", more: str = "") -> EdgeConfig:
    return load_edge(written(folder, core, more))


def test_the_whole_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = written(tmp_path, f"127.0.0.1:{port}", f"[wwsf]\nport = {port}\n")
        assert main(["doctor", "-c", str(path), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    found = {item["what"]: item for item in findings}
    assert found["edge"]["verdict"] == "warn"
    assert found["page"]["verdict"] == "bad"
    assert "ss -lnp" in found["page"]["cure"]
    assert found["certificate"]["verdict"] == "warn"
    assert found["ep_cscf.origins"]["verdict"] == "ok"
    assert found["core"]["verdict"] == "bad"
    assert "PC/SC" not in found
    assert all(item["cure"] for item in findings if item["verdict"] != "ok")


def test_a_mistake_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-c", str(written(tmp_path, more="cor = 1\n"))]) == 2
    assert "did you mean 'core'?" in capsys.readouterr().err


async def test_the_core_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = WebSubscriberConfig(f"bob@{HOME}", [f"sip:bob@{HOME}"], Secret("secret"), ["wwsf.ims.example"])
    core = ImsCore(
        CoreConfig(HOME, ["127.0.0.1:0"], [], web_subscribers=[user], edges=[TrustedEdge("127.0.0.2", HOME)])
    )
    await core.start()
    try:
        host, port = core.core
        found = await edge._core(config(tmp_path, f"{host}:{port}").parts[1])
        assert (found.verdict, "answers 200" in found.text) == ("ok", True), found
        over_tcp = '[ep_cscf.mw]\ntransport = "tcp"\n'
        found = await edge._core(config(tmp_path, f"{host}:{port}", over_tcp).parts[1])
        assert (found.verdict, "TCP" in found.text) == ("ok", True), found
    finally:
        await core.close()
    found = await edge._core(config(tmp_path, f"{host}:{port}", over_tcp).parts[1])
    assert found.verdict == "bad"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setattr(options, "_SECONDS", 0.2)
        found = await edge._core(config(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}").parts[1])
    assert (found.verdict, "does not answer" in found.text, "firewall" in found.cure) == ("bad", True, True)


async def test_a_core_that_refuses(tmp_path: Path) -> None:
    class Refusing(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            head = [line for line in data.split(b"\r\n") if line.partition(b":")[0] in _COPIED]
            self.transport.sendto(b"\r\n".join([b"SIP/2.0 403 Forbidden", *head, b"Content-Length: 0", b"", b""]), addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Refusing, ("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    found = await edge._core(config(tmp_path, f"127.0.0.1:{port}").parts[1])
    transport.close()
    assert (found.verdict, "403" in found.text) == ("warn", True)
    assert "enter 127.0.0.2 at the core" in found.cure


_COPIED = {b"Via", b"From", b"To", b"Call-ID", b"CSeq"}


async def test_a_core_whose_name_nobody_knows(tmp_path: Path) -> None:
    found = await edge._core(config(tmp_path, "core.invalid").parts[1])
    assert (found.verdict, "dig core.invalid" in found.cure) == ("bad", True)


def test_certificates(tmp_path: Path) -> None:
    pem, key = tmp_path / "mine.pem", tmp_path / "mine.key"
    more = f'[wwsf]\ncertificate = "{pem}"\nkey = "{key}"\n'
    assert edge._certificate(config(tmp_path, more=more), NOW).verdict == "bad"
    ensure_certificate(pem, key, ["127.0.0.1", "portal.example"])
    found = edge._certificate(config(tmp_path, more=more), NOW)
    assert (found.verdict, "signed by itself" in found.text) == ("warn", True)
    for name, verdict in (("portal.example", "warn"), ("www.portal.example", "bad")):
        found = edge._certificate(config(tmp_path, more=f'{more}portal = "{name}"\n'), NOW)
        assert found.verdict == verdict, found

    found = edge._certificate(config(tmp_path, more=more), NOW + datetime.timedelta(days=5000))
    assert (found.verdict, "expired" in found.text) == ("bad", True)
    found = edge._certificate(config(tmp_path, more=more), NOW + datetime.timedelta(days=728))
    assert (found.verdict, "expires in" in found.text) == ("warn", True)


async def test_gateways_and_issuers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    found = await edge._gateway("one", "127.0.0.1", port)
    assert (found.what, found.verdict) == ("gateway one", "bad")
    issuer = IssuerConfig(
        "https://portal.example", "ep-cscf", "wwsf.example", ["sip:*@a"], ["*@a"], f"https://127.0.0.1:{port}/jwks"
    )
    found = await edge._issuer(issuer)
    assert (found.what, found.verdict) == ("issuer portal.example", "bad")


async def test_a_gateway_that_answers() -> None:
    """rtpengine and our own both answer "pong"; this is the wire as both write it."""

    class Pong(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data.partition(b" ")[0] + b" d6:result4:ponge", addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Pong, ("127.0.0.1", 0))
    found = await edge._gateway("one", *transport.get_extra_info("sockname"))
    transport.close()
    assert found.verdict == "ok", found


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = edge._state(config(tmp_path, more=f'state = "{tmp_path}/file/state"\n'))
    assert found.verdict == "bad"
    assert edge._state(config(tmp_path, more=f'state = "{tmp_path}/new/state"\n')).verdict == "ok"


async def test_a_running_edge_is_asked(tmp_path: Path) -> None:
    problems = iter(("", "no gateway answers"))

    async def status(request: web.Request) -> web.Response:
        return web.json_response({"problem": next(problems)})

    application = web.Application()
    application.router.add_get("/status", status)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "edge.sock")).start()
    edge_config = config(tmp_path, more=f'control = "{tmp_path}/edge.sock"\n')
    assert (await asyncio.to_thread(edge._running, edge_config)).verdict == "ok"
    found = await asyncio.to_thread(edge._running, edge_config)
    assert (found.verdict, "no gateway answers" in found.text) == ("bad", True)
    await runner.cleanup()
    assert (await asyncio.to_thread(edge._running, edge_config)).verdict == "warn"
