"""The agent's GBA against the simulated BSF on real sockets, with a card in process (S7-GBA)."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.gba import UA_HTTP_DIGEST, bsf_from_impi, naf_id, ua_password
from imskit.aka.vector import AuthenticationVector
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Credentials
from imskit.uicc.profile import CardProfile, IsimProfile
from imskit.uicc.uicc import Uicc
from simulators.bsf.config import BsfConfig, NafConfig
from simulators.bsf.server import BsfServer
from simulators.ims_core.subscribers import Hss, SubscriberConfig
from ue_agent.gba.client import BsfAddress, GbaClient, GbaError, PhishingError
from ue_agent.gba.config import GbaConfig
from ue_agent.gba.engine.bootstrapping import Cause
from ue_agent.gba.service import GbaService
from ue_agent.uicc.application import ImsIdentities
from ue_agent.uicc.card import CardSpec, UiccCard
from ue_agent.uicc.in_process import InProcessReader
from ue_agent.wwpf.agent import AgentError

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 set 1
DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
IMPI = Identity(f"001010000000001@{DOMAIN}")
BSF, NAF = bsf_from_impi(IMPI), "portal.ims.example"
CHALLENGE = f'Digest realm="3GPP-bootstrapping@{NAF}", nonce="n", algorithm=SHA-256, qop="auth,auth-int"'


class HssInProcess:
    """`Zh` without a socket."""

    def __init__(self, gba_u: bool) -> None:
        user = SubscriberConfig(IMPI, [f"sip:1@{DOMAIN}"], k=Secret(K), opc=Secret(OPC), gba_u=gba_u)
        self.hss = Hss([user], secrets.token_bytes)

    async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        return self.hss.vector(impi, resync)

    async def keeps_keys(self, impi: Identity) -> bool:
        return self.hss.by_impi(impi).gba_u


@dataclass
class Stage:
    server: BsfServer
    reader: InProcessReader
    uicc: Uicc
    card: UiccCard
    identities: ImsIdentities
    steps: list[str]
    now: datetime

    def client(self) -> GbaClient:
        address = BsfAddress(BSF, self.server.address[1])
        return GbaClient(self.card, IMPI, address, UA_HTTP_DIGEST, self.steps.append, lambda: self.now)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(params=[False, True], ids=["GBA_ME", "GBA_U"])
def gba_u(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def stage(tmp_path: Path, gba_u: bool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "bsf.nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1" if host == BSF else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    config = BsfConfig(BSF, tmp_path / "unused", [NafConfig(NAF, Secret("0123456789abcdef"))], "127.0.0.1:0")
    made: Stage
    server = BsfServer(config, HssInProcess(gba_u), lambda: made.now.timestamp())
    await server.start()
    isim = IsimProfile(IMPI, DOMAIN, [f"sip:1@{DOMAIN}"])
    uicc = Uicc(CardProfile("001010000000001", k=Secret(K), opc=Secret(OPC), gba=gba_u, isim=isim))
    reader = InProcessReader(uicc)
    async with await UiccCard.open(CardSpec(), reader) as card:
        made = Stage(server, reader, uicc, card, await card.identities(), [], datetime(2026, 11, 23, tzinfo=UTC))
        yield made
    await server.close()


def key_of(stage: Stage, btid: str) -> Secret[bytes]:
    return stage.server.bsf.naf_keys(NAF, btid, naf_id(NAF)).me_key


async def test_the_answer_is_the_nafs(stage: Stage) -> None:
    """S7-GBA: B-TID as user name, base64 of the key as password, auth-int."""
    text = await stage.client().answer(CHALLENGE, "GET", "/x?y", NAF)
    credentials = Credentials.parse(text)
    assert (credentials.qop, credentials.uri, credentials.algorithm) == ("auth-int", "/x?y", "SHA-256")
    password = ua_password(key_of(stage, credentials.username or ""))
    assert digest.verify(credentials, password, "GET")


async def test_nothing_secret_is_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Keys, RES and identity stay out of the log at any level."""
    caplog.set_level(logging.DEBUG)
    credential = await stage.client().credential(NAF)
    run = stage.server.bsf._runs[credential.btid]
    log = caplog.text.lower()
    assert "bootstrapped" in log
    for secret in (run.ks.reveal(), key_of(stage, credential.btid).reveal(), run.ks.reveal()[:16]):
        assert secret.hex() not in log
        assert base64.b64encode(secret).decode().lower() not in log
    assert IMPI.partition("@")[0] not in log


async def test_one_run_serves_many_servers_until_half_its_life(stage: Stage) -> None:
    """TS 33.220 4.5.3: renewed at half the lifetime."""
    client = stage.client()
    first = await client.credential(NAF)
    other = await client.credential("other.ims.example")
    assert (first.btid, first.password) != (other.btid, other.password)
    assert first.btid == other.btid
    stage.later(43_199)
    assert (await client.credential(NAF)).btid == first.btid
    stage.later(2)
    renewed = await client.credential(NAF)
    assert renewed.btid != first.btid
    assert stage.steps == ["gba-bootstrapped"] * 2


async def test_past_half_of_their_life_keys_are_used_when_the_bsf_is_away(stage: Stage) -> None:
    client = stage.client()
    first = await client.credential(NAF)
    await stage.server.close()
    stage.later(50_000)
    assert (await client.credential(NAF)).btid == first.btid
    stage.later(50_000)
    with pytest.raises(GbaError, match="cannot be reached"):
        await client.credential(NAF)


async def test_renewal_on_demand(stage: Stage) -> None:
    client = stage.client()
    first = await client.credential(NAF)
    assert (await client.credential(NAF, renew=True)).btid != first.btid


async def test_many_at_once_bootstrap_once(stage: Stage) -> None:
    client = stage.client()
    found = await asyncio.gather(*(client.credential(NAF) for _ in range(8)))
    assert len({credential.btid for credential in found}) == 1
    assert stage.steps == ["gba-bootstrapped"]


async def test_after_a_restart_of_the_agent(stage: Stage, gba_u: bool) -> None:
    """With GBA_U the card remembers B-TID and Ks; with GBA_ME they were in memory only."""
    first = await stage.client().credential(NAF)
    again = await stage.client().credential(NAF)
    assert (again.btid == first.btid) is gba_u
    assert len(stage.steps) == (1 if gba_u else 2)


@pytest.mark.parametrize("gba_u", [True], ids=["GBA_U"])
async def test_a_card_that_has_lost_its_keys(stage: Stage) -> None:
    client = stage.client()
    first = await client.credential(NAF)
    for keys in stage.uicc._gba.values():
        keys._ks = None
    assert (await client.credential(NAF)).btid != first.btid


async def test_keys_of_the_card_are_wanted(stage: Stage, gba_u: bool) -> None:
    """Realm 3GPP-bootstrapping-uicc@: only what a card has derived will do."""
    wanted = CHALLENGE.replace("3GPP-bootstrapping@", "3GPP-bootstrapping-uicc@")
    if gba_u:
        assert await stage.client().answer(wanted, "GET", "/", NAF)
    else:
        with pytest.raises(GbaError, match="stay in the SIM card"):
            await stage.client().answer(wanted, "GET", "/", NAF)


async def test_of_two_realms_the_one_is_named_that_is_answered(stage: Stage, gba_u: bool) -> None:
    """TS 24.109 5.2.4, and as Android's client does (packages/modules/ImsStack, SscAuthAgentTest)."""
    both = CHALLENGE.replace("3GPP-bootstrapping@", f"3GPP-bootstrapping-uicc@{NAF};3GPP-bootstrapping@")
    credentials = Credentials.parse(await stage.client().answer(both, "GET", "/", NAF))
    assert credentials.realm == ("3GPP-bootstrapping-uicc@" if gba_u else "3GPP-bootstrapping@") + NAF
    assert digest.verify(credentials, ua_password(key_of(stage, credentials.username or "")), "GET")


@pytest.mark.parametrize(
    "realm",
    [
        "3GPP-bootstrapping@evil.example",
        f"3GPP-bootstrapping@{NAF}.evil.example",
        f"3GPP-bootstrapping@{NAF};3GPP-bootstrapping-uicc@evil.example",
    ],
)
async def test_phishing(stage: Stage, realm: str) -> None:
    """S7-GBA: a key is only ever made for the server that asks."""
    with pytest.raises(PhishingError, match="belongs to another server"):
        await stage.client().answer(f'Digest realm="{realm}", nonce="n", qop="auth-int"', "GET", "/", NAF)
    assert stage.steps == [], "not even a run was begun"


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("", "cannot be read"),
        ('Digest realm="x", nonce="n"', "does not ask for bootstrapped keys"),
        (CHALLENGE.replace("SHA-256", "AKAv1-MD5"), "algorithm"),
        (CHALLENGE.replace(', nonce="n"', ""), "cannot be answered"),
        (CHALLENGE.replace("auth,auth-int", "odd"), "cannot be answered"),
    ],
)
async def test_challenges_that_are_none(stage: Stage, challenge: str, words: str) -> None:
    with pytest.raises(GbaError, match=words):
        await stage.client().answer(challenge, "GET", "/", NAF)


async def test_a_bsf_whose_name_is_unknown(stage: Stage) -> None:
    client = GbaClient(stage.card, IMPI, BsfAddress("bsf.nowhere.example"), UA_HTTP_DIGEST)
    with pytest.raises(GbaError, match=r"bsf\.nowhere\.example, cannot be resolved; gba\.bsf") as caught:
        await client.credential(NAF)
    assert caught.value.cause is Cause.BSF
    assert "cannot be resolved" in client.state


async def test_a_card_that_is_pulled(stage: Stage) -> None:
    stage.reader.remove()
    with pytest.raises(GbaError, match="no card") as caught:
        await stage.client().bootstrap()
    assert caught.value.cause is Cause.CARD


async def test_the_service_answers_for_the_operators_page_alone(stage: Stage) -> None:
    config = GbaConfig(enabled=True, bsf=f"{BSF}:{stage.server.address[1]}")
    service = GbaService(config, stage.card, [NAF], stage.steps.append)
    assert (await service.answer(stage.identities, CHALLENGE, "GET", "/", NAF, False)).startswith("Digest ")
    assert "good until" in service.state
    for host, realm_host, kind in (("evil.example", "evil.example", "phishing"), (NAF, "evil.example", "phishing")):
        challenge = CHALLENGE.replace(NAF, realm_host)
        with pytest.raises(AgentError) as caught:
            await service.answer(stage.identities, challenge, "GET", "/", host, False)
        assert caught.value.kind == kind


async def test_the_service_that_is_off(stage: Stage) -> None:
    service = GbaService(GbaConfig(), stage.card, [NAF], stage.steps.append)
    with pytest.raises(AgentError) as caught:
        await service.answer(stage.identities, CHALLENGE, "GET", "/", NAF, False)
    assert caught.value.kind == "bsf"


@pytest.mark.parametrize(
    ("source", "domain", "impi", "bsf", "expected"),
    [
        ("ISIM", DOMAIN, IMPI, "", f"{BSF}:80"),
        ("ISIM", "x", "user@operator.com", "", "bsf.operator.com:80"),
        ("USIM", DOMAIN, IMPI, "", "bsf.mnc001.mcc001.pub.3gppnetwork.org:80"),
        ("USIM", DOMAIN, IMPI, "bsf.lab:8080", "bsf.lab:8080"),
        ("ISIM", "x", "nodomain", "bsf.lab", "bsf.lab:80"),
        ("ISIM", "x", "nodomain", "", None),
    ],
)
def test_the_name_of_the_bsf(source: Any, domain: str, impi: str, bsf: str, expected: str | None) -> None:
    """TS 23.003 16.2, or as configured; where neither helps the error says what to set."""
    identities = ImsIdentities(Identity(impi), (), domain, (), source, None)
    service = GbaService(GbaConfig(enabled=True, bsf=bsf), None, [], lambda step: None)  # type: ignore[arg-type]
    if expected is None:
        with pytest.raises(GbaError, match=r"gba\.bsf must name it"):
            service.client(identities)
        return
    address = service.client(identities)._bsf
    assert f"{address.name}:{address.port}" == expected


@pytest.mark.parametrize(
    "wrong", [{"bsf": "a:b"}, {"bsf": "a b"}, {"bsf": "a:0"}, {"protocol": "01"}, {"protocol": "x"}]
)
def test_settings_that_do_not_fit(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"bsf|protocol"):
        GbaConfig(**wrong)
