"""The simulated BSF on its sockets: Ub as a terminal made by hand sees it, Zn, Zh (S7-GBA)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from imskit.aka.gba import (
    MEDIA_TYPE,
    BootstrappingInfo,
    KeyKind,
    bootstrap_key,
    conceal_for_uicc,
    derive_naf_key,
    naf_id,
)
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnArray, join
from imskit.aka.vector import AuthenticationVector, Success, SyncFailure, Usim
from imskit.config.model import ConfigError, parse
from imskit.secrets import Identity, Secret
from imskit.sockets import unix_socket
from simulators.bsf.bootstrapping import Bsf
from simulators.bsf.config import BsfConfig, NafConfig
from simulators.bsf.server import BsfServer
from simulators.bsf.zh import HssZh, ZhError
from simulators.ims_core import hss_socket
from simulators.ims_core.subscribers import Hss, SubscriberConfig

K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"  # TS 35.208 set 1
MILENAGE = Milenage(Secret(bytes.fromhex(K)), Secret(bytes.fromhex(OPC)))
BSF, NAF, SECRET = "bsf.ims.example", "naf.ims.example", "a secret of the NAF's"
ME, UICC = "0100@ims.example", "0200@ims.example"


class Terminal:
    """Speaks Ub with HTTP Digest written out (RFC 7616 section 3.4, qop=auth-int, RFC 3310)."""

    def __init__(self, server: BsfServer, folder: Path, http: aiohttp.ClientSession) -> None:
        self.server = server
        self.http = http
        self.zn = folder / "zn.sock"
        self.usim = Usim(MILENAGE)
        self.now = 1_795_000_000.0

    async def get(self, authorization: str | None, path: str = "/") -> tuple[int, dict[str, str], bytes]:
        host, port = self.server.address
        headers = {} if authorization is None else {"Authorization": authorization}
        async with self.http.get(f"http://{host}:{port}{path}", headers=headers) as response:
            return response.status, dict(response.headers), await response.read()

    async def challenged(self, impi: str = ME) -> dict[str, str]:
        status, headers, _ = await self.get(f'Digest username="{impi}", realm="{BSF}", nonce="", uri="/", response=""')
        assert status == 401
        return dict(re.findall(r'(\w+)="?([^",]*)"?', headers["WWW-Authenticate"].removeprefix("Digest ")))

    def answer(self, asked: dict[str, str], password: bytes, impi: str = ME, more: str = "", **changes: str) -> str:
        f = {"username": impi, "uri": "/", "qop": "auth-int", "nc": "00000001", "cnonce": "0a4f113b", **changes}
        f = asked | f
        response = md5(
            md5(f["username"], f["realm"], password),
            *(f["nonce"], f["nc"], f["cnonce"], f["qop"]),
            md5("GET", f["uri"], hashlib.md5(b"").hexdigest()),
        )
        return (
            f'Digest username="{f["username"]}", realm="{f["realm"]}", nonce="{f["nonce"]}", uri="{f["uri"]}", '
            f'response="{response}", algorithm={f["algorithm"]}, qop={f["qop"]}, nc={f["nc"]}, '
            f'cnonce="{f["cnonce"]}"{more}'
        )

    def aka(self, asked: dict[str, str], *, in_card: bool = False) -> Success:
        octets = base64.b64decode(asked["nonce"])
        rand, autn = octets[:16], octets[16:32]
        if in_card:
            autn = conceal_for_uicc(autn, MILENAGE.f2345(rand).ik)
        result = self.usim.verify(rand, autn)
        assert isinstance(result, Success), result
        return result

    async def ask_zn(self, body: object, secret: str = SECRET) -> tuple[int, dict[str, str]]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.zn))) as http,
            http.post("http://bsf/keys", json=body, headers={"Authorization": f"Bearer {secret}"}) as response,
        ):
            return response.status, await response.json()


def md5(*parts: bytes | str) -> str:
    octets = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.md5(b":".join(octets)).hexdigest()


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    users = [
        SubscriberConfig(impi, [f"sip:+1555{impi}"], k=Secret(K), opc=Secret(OPC), gba_u=impi == UICC)
        for impi in (ME, UICC)
    ]
    zh = HssZh(tmp_path / "hss.sock")
    config = BsfConfig(
        BSF,
        tmp_path / "hss.sock",
        [NafConfig(NAF, Secret(SECRET)), NafConfig("other.ims.example", Secret("another secret, as long"))],
        listen="127.0.0.1:0",
        zn=tmp_path / "zn.sock",
        lifetime=600,
    )
    async with unix_socket(hss_socket.application(Hss(users, secrets.token_bytes)), tmp_path / "hss.sock"):
        server = BsfServer(config, zh, lambda: made.now)
        await server.start()
        async with aiohttp.ClientSession() as http:
            made = Terminal(server, tmp_path, http)
            yield made
        await server.close()
        await zh.close()


@pytest.mark.parametrize("impi", [ME, UICC])
async def test_a_run_and_its_keys(terminal: Terminal, impi: str) -> None:
    """S7-GBA: Ub to its end; Zn gives Ks_NAF, with GBA_U Ks_ext_NAF and Ks_int_NAF; the proof is right."""
    asked = await terminal.challenged(impi)
    assert (asked["realm"], asked["algorithm"], asked["qop"]) == (BSF, "AKAv1-MD5", "auth-int")
    run = terminal.aka(asked, in_card=impi == UICC)
    status, headers, body = await terminal.get(terminal.answer(asked, run.res.reveal(), impi))
    assert (status, headers["Content-Type"]) == (200, MEDIA_TYPE)
    info = BootstrappingInfo.decode(body)
    rand = base64.b64decode(asked["nonce"])[:16]
    assert info.btid.text == f"{base64.b64encode(rand).decode()}@{BSF}"
    assert info.lifetime == datetime.fromtimestamp(terminal.now + 600, UTC)
    proof = md5(
        md5(impi, BSF, run.res.reveal()),
        *(asked["nonce"], "00000001", "0a4f113b", "auth-int"),
        md5("", "/", hashlib.md5(body).hexdigest()),
    )
    assert f'rspauth="{proof}"' in headers["Authentication-Info"]
    status, keys = await terminal.ask_zn({"btid": info.btid.text, "naf_id": naf_id(NAF).hex()})
    ks = bootstrap_key(run.ck, run.ik)
    assert status == 200
    assert keys["impi"] == impi
    assert keys["me_key"] == derive_naf_key(ks, rand, impi, naf_id(NAF)).reveal().hex()
    internal = derive_naf_key(ks, rand, impi, naf_id(NAF), KeyKind.UICC).reveal().hex()
    assert keys["uicc_key"] == (internal if impi == UICC else None)
    assert keys["expires"] == terminal.now + 600


async def test_a_plain_run_is_no_use_for_a_card_with_gba_u(terminal: Terminal) -> None:
    """TS 33.220 5.3.2: AUTN* is refused in the ordinary context, so Ks cannot be had outside the card."""
    octets = base64.b64decode((await terminal.challenged(UICC))["nonce"])
    assert not isinstance(terminal.usim.verify(octets[:16], octets[16:32]), Success | SyncFailure)


async def test_keys_end(terminal: Terminal) -> None:
    asked = await terminal.challenged()
    _, _, body = await terminal.get(terminal.answer(asked, terminal.aka(asked).res.reveal()))
    question = {"btid": BootstrappingInfo.decode(body).btid.text, "naf_id": naf_id(NAF).hex()}
    terminal.now += 599
    assert (await terminal.ask_zn(question))[0] == 200
    terminal.now += 2
    assert (await terminal.ask_zn(question))[0] == 404


async def test_resynchronisation(terminal: Terminal) -> None:
    terminal.usim = Usim(MILENAGE, SqnArray([join(1 << 20, 1)]))
    asked = await terminal.challenged()
    octets = base64.b64decode(asked["nonce"])
    refused = terminal.usim.verify(octets[:16], octets[16:32])
    assert isinstance(refused, SyncFailure)
    auts = f', auts="{base64.b64encode(refused.auts).decode()}"'
    status, headers, _ = await terminal.get(terminal.answer(asked, b"", more=auts))
    assert status == 401
    again = dict(re.findall(r'(\w+)="?([^",]*)"?', headers["WWW-Authenticate"].removeprefix("Digest ")))
    status, _, _ = await terminal.get(terminal.answer(again, terminal.aka(again).res.reveal()))
    assert status == 200


async def test_auts_of_another_card_and_auts_twice(terminal: Terminal) -> None:
    forged = f', auts="{base64.b64encode(bytes(14)).decode()}"'
    asked = await terminal.challenged()
    assert (await terminal.get(terminal.answer(asked, b"", more=forged)))[0] == 403
    asked = await terminal.challenged()
    assert (await terminal.get(terminal.answer(asked, b"", more=', auts="AAAA"')))[0] == 400


async def test_a_challenge_is_good_for_one_answer(terminal: Terminal) -> None:
    """Replay: the same answer again only gets a new challenge."""
    asked = await terminal.challenged()
    good = terminal.answer(asked, terminal.aka(asked).res.reveal())
    assert (await terminal.get(good))[0] == 200
    status, headers, _ = await terminal.get(good)
    assert status == 401
    assert "stale=true" in headers["WWW-Authenticate"]


async def test_a_challenge_ends(terminal: Terminal) -> None:
    asked = await terminal.challenged()
    terminal.now += 61
    assert (await terminal.get(terminal.answer(asked, terminal.aka(asked).res.reveal())))[0] == 401


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"qop": "auth"}, 400),
        ({"algorithm": "MD5"}, 400),
        ({"uri": "/other"}, 400),
        ({"impi": UICC}, 401),
        ({"password": "wrong"}, 403),
    ],
    ids=lambda value: str(value),
)
async def test_answers_that_are_wrong(terminal: Terminal, changes: dict[str, str], status: int) -> None:
    asked = await terminal.challenged()
    password = changes.pop("password", "").encode() or terminal.aka(asked).res.reveal()
    assert (await terminal.get(terminal.answer(asked, password, **changes)))[0] == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 400),
        ("Basic eDp5", 400),
        ("Digest", 400),
        ('Digest username="x", realm="bsf.other.example", nonce="", uri="/", response=""', 400),
        (f'Digest realm="{BSF}", nonce="", uri="/", response=""', 400),
        (f'Digest username="nobody@ims.example", realm="{BSF}", nonce="", uri="/", response=""', 403),
        (f'Digest username="{ME}", username="y", realm="{BSF}"', 400),
    ],
)
async def test_requests_that_are_none(terminal: Terminal, authorization: str | None, status: int) -> None:
    assert (await terminal.get(authorization))[0] == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400),
        ({"btid": 1, "naf_id": ""}, 400),
        ({"btid": "x", "naf_id": "zz"}, 400),
        ({"btid": "x", "naf_id": "00"}, 403),
        ({"btid": "x", "naf_id": naf_id("other.ims.example").hex()}, 403),
        ({"btid": "x", "naf_id": naf_id(NAF).hex()}, 404),
    ],
)
async def test_zn_refuses(terminal: Terminal, body: object, status: int) -> None:
    assert (await terminal.ask_zn(body))[0] == status
    assert (await terminal.ask_zn(body, "nobody's"))[0] == 401
    assert terminal.zn.stat().st_mode & 0o777 == 0o600


@given(
    st.text(max_size=120) | st.text(max_size=60).map(lambda noise: f'Digest realm="{BSF}", username="{ME}", {noise}')
)
def test_any_authorization_may_come(text: str) -> None:
    """Whatever it is, there is an answer, and no key for it."""

    class Nobody:
        async def vector(self, impi: Identity, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
            raise ZhError("no", unknown=True)

        async def keeps_keys(self, impi: Identity) -> bool:
            return False

    bsf = Bsf(BSF, Nobody(), 60, lambda: 0.0, lambda step: None)
    assert asyncio.run(bsf.handle(text, "GET", "/", b"")).status in (400, 403)


@pytest.mark.parametrize("body", [[], {}, {"rand": 1}, {"rand": "zz", "autn": "", "xres": "", "ck": "", "ik": ""}])
async def test_an_hss_that_talks_nonsense(tmp_path: Path, body: object) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    zh = HssZh(tmp_path / "hss.sock")
    async with unix_socket(app, tmp_path / "hss.sock"):
        with pytest.raises(ZhError, match="the HSS sent"):
            await zh.vector(Identity(ME))
        await zh.close()


async def test_an_hss_that_is_not_there(tmp_path: Path) -> None:
    zh = HssZh(tmp_path / "none.sock")
    with pytest.raises(ZhError, match="does not answer") as caught:
        await zh.keeps_keys(Identity(ME))
    assert not caught.value.unknown
    await zh.close()


GOOD = 'name = "bsf.example"\nhss = "x"\n[[nafs]]\nname = "n.example"\nsecret = "0123456789abcdef"\n'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bsf.example", "b_s f", "B-TID"),
        ("n.example", "n e", "no host name"),
        ("0123456789abcdef", "short", "16 characters"),
        ('hss = "x"', 'hss = "x"\nlifetime = 0', "lifetime"),
        ('hss = "x"', 'hss = "x"\nlisten = "1"', "ADDR:PORT"),
    ],
)
def test_configurations(old: str, new: str, words: str) -> None:
    parse(BsfConfig, GOOD)
    with pytest.raises(ConfigError, match=words):
        parse(BsfConfig, GOOD.replace(old, new))
