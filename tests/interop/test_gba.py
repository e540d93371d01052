"""The whole of GBA on real sockets: card in pcscd's virtual reader, agent, web proxy, portal (NAF), BSF, HSS; curl.

The HSS (in the core), the BSF and the portal are programs of their own; agent and web proxy talk over their socket.
Requirements S7-GBA, X-CARDLAB; the steps of TS 34.229-1 C.29.2 (GBA bootstrapping).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from imskit.aka.gba import naf_id
from imskit.aka.sqn import join
from imskit.observe.events import read_events
from imskit.secrets import Secret
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.card.pcscd import PrivatePcscd, missing, use_in_this_process
from simulators.card.server import VirtualCard
from simulators.lab.certificates import Authority
from ue_agent.gba.config import GbaConfig
from ue_agent.gba.service import GbaService
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.wwpf import card_login
from ue_agent.wwpf.agent import ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.config import Address, Browser, Site, WwpfConfig
from ue_agent.wwpf.proxy import WebProxy
from ue_agent.wwpf.service import WwpfService

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(missing() is not None, reason=f"NO SMART-CARD TESTS: {missing()}"),
]

# TS 35.208 set 1 and, for TUAK, keys of our own.
MILENAGE = {"k": "465b5ce8b199b49faa5f0a2ee238a6bc", "opc": "cd63cb71954a9f4e48a5994e37a02baf"}
TUAK = {"algorithm": "tuak", "k": "ab" * 32, "opc": "5c" * 32}
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
IMPI = f"001010000000001@{DOMAIN}"
BSF = "bsf.ims.mnc001.mcc001.pub.3gppnetwork.org"
PORTAL, EVIL = "portal.ims.example", "evil.ims.example"
NAF_SECRET = "the secret of the portal"
CURL = str(Path(shutil.which("curl") or "curl").resolve())
PAGE_LOAD = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: none", "Accept: text/html")


@pytest.fixture
def pcscd() -> Iterator[PrivatePcscd]:
    with PrivatePcscd() as daemon:
        use_in_this_process(daemon)
        yield daemon


class Stage:
    """All of it; ``start`` takes what a test wants to be different."""

    def __init__(self, folder: Path, pcscd: PrivatePcscd, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.pcscd = pcscd
        self.stack = stack
        self.ca = Authority.create("Operator of the test", folder / "ca")
        self.programs: dict[str, asyncio.subprocess.Process] = {}
        self.steps: list[str] = []
        self.keys: dict[str, str] = MILENAGE
        self.gba_u = False
        self.login = "gba"
        self.lifetime = 3600.0
        self.portal_port = self.bsf_port = 0
        self.evil_port = 443

    async def start(self, *, sqn: int = 0, enabled: bool = True, **card: Any) -> None:
        await asyncio.gather(self.start_core(), self.start_bsf(), self.start_portal())
        isim = IsimProfile(IMPI, DOMAIN, [f"sip:+15550100@{DOMAIN}"])
        keys: dict[str, Any] = {name: Secret(v) if name in ("k", "opc") else v for name, v in self.keys.items()}
        profile = {"isim": isim, "gba": self.gba_u, "sqn": [sqn] if sqn else [], **keys, **card}
        self.uicc = Uicc(CardProfile("001010000000001", **profile))
        await self.stack.enter_async_context(VirtualCard(self.uicc, self.pcscd.ports[0]))
        self.card = await self.stack.enter_async_context(await UiccCard.open(CardSpec(pin=Secret("1234"))))
        await self.card.wait_inserted()
        self.identities = await self.card.identities()
        config = GbaConfig(enabled=enabled, bsf=f"{BSF}:{self.bsf_port}")
        self.gba = GbaService(config, self.card, [PORTAL, EVIL], self.steps.append)
        service = WwpfService(self, self.folder / "run" / "agent.sock")
        await service.start()
        self.stack.push_async_callback(service.aclose)
        self.proxy = WebProxy(
            WwpfConfig(
                listen=Address("127.0.0.1", 0),
                pac=None,
                state=self.folder / "wwpf",
                operator_domains=("ims.example",),
                portals=(Site(PORTAL, self.portal_port), Site(EVIL, self.evil_port)),
                browsers=(Browser(CURL),),
                trust=self.ca.root,
                agent=service.socket,
                gba=enabled,
            )
        )
        await self.proxy.start()
        self.stack.push_async_callback(self.proxy.aclose)

    # ---- the operator's programs

    async def start_core(self) -> None:
        keys = "".join(f'{name} = "{value}"\n' for name, value in self.keys.items())
        self.write(
            "core.toml",
            f'domain = "{DOMAIN}"\ngm = ["127.0.0.44:0"]\nhss = "{self.folder}/hss.sock"\n[[subscribers]]\n'
            f'impi = "{IMPI}"\nimpus = ["sip:+15550100@{DOMAIN}"]\n{keys}gba_u = {str(self.gba_u).lower()}\n',
        )
        await self.run("core", "sim", "core", "run", "-c", str(self.folder / "core.toml"))

    async def start_bsf(self, name: str = BSF) -> None:
        self.write(
            "bsf.toml",
            f'name = "{name}"\nhss = "{self.folder}/hss.sock"\nlisten = "127.0.0.1:{self.bsf_port}"\n'
            f'zn = "{self.folder}/zn.sock"\nlifetime = {self.lifetime}\nevents = "{self.folder}/bsf.jsonl"\n'
            f'[[nafs]]\nname = "{PORTAL}"\nsecret = "{NAF_SECRET}"\n',
        )
        said = await self.run("bsf", "sim", "bsf", "run", "-c", str(self.folder / "bsf.toml"))
        self.bsf_port = int(said.rpartition(":")[2])

    async def start_portal(self) -> None:
        certificate, key = self.ca.server(PORTAL, EVIL)
        self.write(
            "wwsf.toml",
            f'portal = "{PORTAL}"\nwebsocket = "wss://ws.ims.example/sip"\ncertificate = "{certificate}"\n'
            f'key = "{key}"\nhss = "{self.folder}/hss.sock"\nport = {self.portal_port}\nlogin = "{self.login}"\n'
            f'events = "{self.folder}/wwsf.jsonl"\n[turn]\nsecret = "geheim"\nuris = ["turn:turn.ims.example:3478"]\n'
            f'[gba]\nzn = "{self.folder}/zn.sock"\nsecret = "{NAF_SECRET}"\nin_card = {str(self.gba_u).lower()}\n',
        )
        said = await self.run("wwsf", "edge", "wwsf", "run", "-c", str(self.folder / "wwsf.toml"))
        self.portal_port = int(said.rpartition(" ")[2])

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)

    async def run(self, name: str, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "imsbridge", *words, stderr=subprocess.PIPE
        )
        self.programs[name] = process
        self.stack.push_async_callback(self.end, name, process)
        assert process.stderr is not None
        said = ""
        async with asyncio.timeout(60):
            while not (line := (await process.stderr.readline()).decode()).startswith("ready: "):
                said += line
                assert line, f"{name} ended before it was ready: {said}"
        return line.strip()

    async def end(self, name: str, process: asyncio.subprocess.Process | None = None) -> None:
        process = process or self.programs[name]
        if process.returncode is None:
            process.terminate()
        await process.communicate()

    def events(self, name: str) -> list[str]:
        return [event["event"] for event in read_events(self.folder / f"{name}.jsonl")]

    # ---- the agent's side of the web proxy's socket

    async def identity(self) -> LoginIdentity:
        return LoginIdentity(self.identities.impi, self.identities.domain)

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        self.steps.append("aka")
        return await card_login.answer_challenge(await self.identity(), self.card.authenticate, challenge, method, uri)

    async def answer_naf_challenge(self, challenge: str, method: str, uri: str, host: str, renew: bool) -> str:
        return await self.gba.answer(self.identities, challenge, method, uri, host, renew)

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        raise AssertionError("no page asks for it here")

    # ---- the browser

    async def curl(self, path: str = "/api/session", host: str = PORTAL, port: int = 0) -> tuple[int, str]:
        """Load a page with curl through the web proxy, without cookies; returns status and body."""
        headers = [word for header in PAGE_LOAD for word in ("-H", header)]
        process = await asyncio.create_subprocess_exec(
            *(CURL, "-sS", "-w", "\n%{http_code}", "--max-time", "30", "--proxy", f"http://{self.proxy.address}"),
            *(
                "--cacert",
                str(self.folder / "wwpf" / "ca.pem"),
                *headers,
                f"https://{host}:{port or self.portal_port}{path}",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, error = await process.communicate()
        text, _, status = out.decode().rpartition("\n")
        assert status.isdigit(), error
        return int(status), text

    async def forget(self) -> int:
        """Let the BSF forget, as an operator does it."""
        process = await asyncio.create_subprocess_exec(
            *(CURL, "-sS", "--unix-socket", str(self.folder / "zn.sock"), "-X", "POST", "http://bsf/forget"),
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return int(json.loads(out)["forgotten"])


@pytest.fixture
async def stage(tmp_path: Path, pcscd: PrivatePcscd, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if text in (PORTAL, EVIL, BSF):
            return real("127.0.0.1", *arguments, **options)
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, pcscd, stack)


@pytest.mark.parametrize("keys", [MILENAGE, TUAK], ids=["milenage", "tuak"])
@pytest.mark.parametrize("gba_u", [False, True], ids=["GBA_ME", "GBA_U"])
async def test_the_page_is_logged_in_to_with_a_bootstrapped_key(
    stage: Stage, keys: dict[str, str], gba_u: bool
) -> None:
    """S7-GBA: one bootstrapping run serves many log-ins; with GBA_U Ks never leaves the card."""
    stage.keys, stage.gba_u = keys, gba_u
    await stage.start(pin=Secret("1234"))
    for _ in range(3):
        status, text = await stage.curl()
        assert status == 200, text
        assert json.loads(text)["sip"]["uri"] == f"sip:+15550100@{DOMAIN}"
    assert stage.steps == ["gba-bootstrapped"]
    assert stage.events("bsf") == ["bsf-challenged", "bsf-bootstrapped", *["bsf-key-given"] * 3]
    assert stage.events("wwsf") == ["gba-challenged", "gba-done"] * 3
    run = stage.gba.client(stage.identities).run
    assert run is not None
    assert run.in_card is gba_u
    if gba_u:
        kept = [card.internal_keys for card in stage.uicc._gba.values()]
        assert [list(keys) for keys in kept if keys] == [[naf_id(PORTAL)]]
        assert await stage.card.stored_bootstrapping(stage.identities.impi) == run


async def test_a_card_that_is_ahead_asks_to_resynchronise(stage: Stage) -> None:
    """S7-GBA: AUTS on Ub."""
    await stage.start(sqn=join(1 << 29, 1))
    status, text = await stage.curl()
    assert status == 200, text
    assert stage.events("bsf")[:3] == ["bsf-challenged", "bsf-resynchronised", "bsf-bootstrapped"]


async def test_a_bsf_that_has_forgotten(stage: Stage) -> None:
    """S7-GBA: an unknown B-TID leads to one new run, and the user sees nothing of it."""
    await stage.start()
    assert (await stage.curl())[0] == 200
    assert await stage.forget() == 1
    assert (await stage.curl())[0] == 200
    assert stage.steps == ["gba-bootstrapped"] * 2
    assert stage.events("wwsf")[-3:] == ["gba-challenged", "gba-challenged", "gba-done"]


async def test_keys_that_have_expired(stage: Stage) -> None:
    """S7-GBA: at the end of their life the terminal bootstraps by itself; the BSF gives no key for the old B-TID."""
    stage.lifetime = 2.0
    await stage.start()
    assert (await stage.curl())[0] == 200
    client = stage.gba.client(stage.identities)
    old = client.run
    assert old is not None
    # Now the terminal believes in them longer than the BSF.
    client._run = type(old)(
        old.impi, old.rand, type(old.info)(old.info.btid, datetime.now(UTC) + timedelta(hours=1)), old.ks
    )
    async with asyncio.timeout(10):
        while (status := await ask_zn(stage.folder / "zn.sock", old.info.btid.text)) != 404:
            assert status == 200
            await asyncio.sleep(0.2)
    assert (await stage.curl())[0] == 200
    assert stage.steps == ["gba-bootstrapped"] * 2


async def ask_zn(path: Path, btid: str, name: str = PORTAL, secret: str = NAF_SECRET) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
        headers = {"Authorization": f"Bearer {secret}"}
        body = {"btid": btid, "naf_id": naf_id(name).hex()}
        async with http.post("http://bsf/keys", json=body, headers=headers) as response:
            return response.status


async def test_only_its_own_key_is_given_to_a_server(stage: Stage) -> None:
    """TS 33.220 4.5.3: Zn checks who asks and for which name."""
    await stage.start()
    assert (await stage.curl())[0] == 200
    run = stage.gba.client(stage.identities).run
    assert run is not None
    zn, btid = stage.folder / "zn.sock", run.info.btid.text
    assert zn.stat().st_mode & 0o777 == 0o600
    assert await ask_zn(zn, btid) == 200
    assert await ask_zn(zn, btid, name=EVIL) == 403
    assert await ask_zn(zn, btid, secret="another secret of some length") == 401
    assert await ask_zn(zn, "unknown@" + BSF) == 404


async def test_a_network_with_other_keys(stage: Stage) -> None:
    """Wrong MAC: the card refuses, nothing is sent to the BSF, the page says why."""
    await stage.start(opc=Secret("00" * 16))
    status, text = await stage.curl()
    assert status == 403
    assert "does not recognise the operator" in text
    assert stage.events("bsf") == ["bsf-challenged"]


async def test_a_bsf_that_is_not_there(stage: Stage) -> None:
    """The page names the server; with ``either`` the card itself logs in instead."""
    await stage.start()
    await stage.end("bsf")
    status, text = await stage.curl()
    assert (status, BSF in text) == (502, True)


async def test_the_card_itself_where_there_is_no_key(stage: Stage) -> None:
    stage.login = "either"
    await stage.start()
    assert (await stage.curl())[0] == 200
    assert stage.steps == ["gba-bootstrapped"]
    await stage.end("bsf")
    stage.gba._client = None
    status, text = await stage.curl()
    assert status == 200, text
    assert stage.steps == ["gba-bootstrapped", "gba-failed", "aka"]
    assert stage.events("wwsf")[-3:] == ["gba-challenged", "aka-challenged", "aka-done"]


async def test_a_device_without_gba_at_a_portal_that_takes_either(stage: Stage) -> None:
    stage.login = "either"
    await stage.start(enabled=False)
    status, text = await stage.curl()
    assert status == 200, text
    assert stage.steps == ["aka"]


async def test_a_device_with_gba_at_a_portal_that_knows_nothing_of_it(stage: Stage) -> None:
    stage.login = "aka"
    await stage.start()
    assert (await stage.curl())[0] == 200
    assert stage.steps == ["aka"]


async def test_a_page_that_asks_for_the_key_of_another_server(stage: Stage) -> None:
    """Phishing: a server of the operator's domain that was taken over gets no answer for the portal's realm."""
    seen: list[str] = []

    async def evil(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        challenge = f'Digest realm="3GPP-bootstrapping@{PORTAL}", nonce="n", algorithm=MD5, qop="auth-int"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    certificate, key = stage.ca.server(EVIL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_get("/{path:.*}", evil)
    runner = web.AppRunner(app)
    await runner.setup()
    stage.stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    stage.evil_port = runner.addresses[0][1]
    await stage.start()
    status, text = await stage.curl("/", EVIL, stage.evil_port)
    assert status == 403, text
    assert "belongs to another server" in text
    assert seen == [""], "the server did not even learn who would have asked"
    assert stage.steps == []
