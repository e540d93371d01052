"""Runs on the lab's handset: the WWPF as the agent starts it, with a software card and an echoing SIF.

``python web_proxy_host.py FOLDER TRUST``; says ``ready: web proxy``, then what the page brings to SIF and TURN proxy.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web

from imskit.aka.milenage import Milenage
from imskit.aka.vector import AkaResult, Usim
from imskit.observe import logs
from imskit.secrets import Identity, Secret
from simulators.lab.lab import DOMAIN, PORTAL, TURN, USER_KEYS, WEBSOCKET
from ue_agent.wwpf import card_login, handover
from ue_agent.wwpf.agent import ChallengeAnswer, LoginIdentity
from ue_agent.wwpf.ca import load_or_create
from ue_agent.wwpf.child import WwpfChild
from ue_agent.wwpf.config import Address, Browser, Handover, Site, WwpfConfig
from ue_agent.wwpf.policies import browser_policies
from ue_agent.wwpf.service import WwpfService


class Card:
    """The agent's side of the log-in."""

    def __init__(self) -> None:
        k, opc = (Secret(bytes.fromhex(key)) for key in USER_KEYS)
        self._usim = Usim(Milenage(k, opc))

    async def identity(self) -> LoginIdentity:
        return LoginIdentity(Identity(f"001010000000001@{DOMAIN}"), DOMAIN)

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        async def authenticate(rand: bytes, autn: bytes) -> AkaResult:
            return self._usim.verify(rand, autn)

        return await card_login.answer_challenge(await self.identity(), authenticate, challenge, method, uri)

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        print(f"turn credential for {ttl:.0f} s", flush=True)


async def main(folder: Path, trust: Path) -> None:
    secret = handover.new_secret()

    async def echo(request: web.Request) -> web.StreamResponse:
        assert handover.is_genuine(request.headers.get(handover.SECRET_HEADER), secret)
        websocket = web.WebSocketResponse(protocols=["sip"])
        await websocket.prepare(request)
        async for message in websocket:
            await websocket.send_str(f"SIF: {message.data}")
        return websocket

    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 5066).start()
    service = WwpfService(Card(), folder / "run" / "agent.sock")
    await service.start()
    config = WwpfConfig(
        listen=Address("127.0.0.1", 8080),
        pac=Address("127.0.0.1", 8079),
        state=folder / "state",
        operator_domains=("ims.example",),
        direct_hosts=(TURN,),
        portals=(Site(PORTAL, 443),),
        websockets=(Site(WEBSOCKET, 443),),
        browsers=(Browser("/usr/lib/chromium/chromium"),),
        trust=trust,
        handover=Handover(Address("127.0.0.1", 5066), secret),
    )
    await WwpfChild(config, service).start()
    ca = load_or_create(config.state, config.operator_domains)
    policies = browser_policies(
        ca_der=ca.der,
        pac_url=service.detail.partition(", ")[2],
        portals=config.portals,
        operator_domains=config.operator_domains,
    )
    (folder / "policy.json").write_text(json.dumps(policies))
    print("ready: web proxy", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logs.set_up("debug")
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
