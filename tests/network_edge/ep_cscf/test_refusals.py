"""What a stranger tries at the eP-CSCF's WebSocket, on real sockets and with real tokens [A-EPCSCF A-REG2 A-REG3].

Each is refused with its own answer, nothing of it reaches the core, and who comes next is served.  (Foreign Origins,
floods, bombs, long heads and slow handshakes: `test_server.py`, `test_attacks.py`.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer
from network_edge.ep_cscf.tokens import SignedTokens, TokenValidator, TrustedIssuer

HOME = "ims.example"
ISSUER = "https://portal.ims.example"
ALICE = f"sip:alice@{HOME}"


def new_key() -> ECKey:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True)
    return ECKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})


KEY, OTHER = new_key(), new_key()


def signed(key: ECKey = KEY, kid: str = "", **changes: Any) -> str:
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": "ep-cscf",
        "iat": now - 400,
        "exp": now + 300,
        "scope": "ims",
        "impi": f"alice@{HOME}",
        "impu": [ALICE],
    }
    header = {"alg": "ES256", "typ": "at+jwt", "kid": kid or key.kid}
    return jwt.encode(header, claims | changes, key, algorithms=["ES256"])


async def keys() -> Mapping[str, Any]:
    return {"keys": [dict(KEY.as_dict(private=False))]}


class NoGateway:
    """Nobody calls here."""

    on_media_lost: Any = None
    draining = False


@pytest.fixture
async def edge(core: Any) -> AsyncIterator[EpCscfServer]:
    # Users of the portal are alice, and guests 0 to 999 of a wildcarded identity.
    issuer = TrustedIssuer(
        ISSUER, "ep-cscf", "wwsf.ims.example", (ALICE, f"sip:guest*@{HOME}"), (f"*@{HOME}",), SignedTokens(keys)
    )
    config = EpCscfConfig(
        HOME, MwConfig("127.0.0.1:0", core.address), ws=["127.0.0.1:0"], wss=[], origins=[ISSUER], reg_event=False
    )
    server = EpCscfServer(config, gateway=NoGateway(), validator=TokenValidator([issuer]))  # type: ignore[arg-type]
    await server.start()
    yield server
    await server.close()


def connection(edge: EpCscfServer) -> connect:
    host, port = edge.ws[0]
    return connect(f"ws://{host}:{port}/", origin=Origin(ISSUER), subprotocols=[Subprotocol("sip")], proxy=None)


async def good_client_is_served(edge: EpCscfServer, core: Any, make_phone: Any) -> None:
    async with connection(edge) as opened:
        phone = make_phone(opened)
        await phone.register(f"Authorization: Bearer {signed()}")
        request = await core.request("REGISTER")
        assert request.call_id == f"registration{id(phone)}", "something of the refused one reached the core"
        core.register(request, ALICE)
        assert (await phone.response()).status == 200


BAD_TOKENS = [
    pytest.param({"key": OTHER}, ALICE, 401, id="signed by a stranger"),
    pytest.param({"key": OTHER, "kid": KEY.kid}, ALICE, 401, id="forged"),
    pytest.param({"exp": 1_700_000_000}, ALICE, 401, id="replayed after its end"),
    pytest.param({"aud": "somebody"}, ALICE, 401, id="for another audience"),
    pytest.param({"iss": "https://evil.example"}, ALICE, 401, id="of another issuer"),
    pytest.param({"scope": "mail"}, ALICE, 403, id="for something else"),
    pytest.param({}, f"sip:bob@{HOME}", 403, id="identity not in the token"),
    pytest.param({"impu": [f"sip:boss@{HOME}"]}, f"sip:boss@{HOME}", 401, id="outside the issuer's range"),
    pytest.param({"impu": ["sip:guest1@evil.example"]}, "sip:guest1@evil.example", 401, id="range of another home"),
    pytest.param({"impu": [f"sip:guest!.*!@{HOME}"]}, ALICE, 401, id="a range itself"),
    pytest.param({"impi": "alice@evil.example"}, ALICE, 401, id="private identity of another home"),
]


@pytest.mark.parametrize(("changes", "impu", "status"), BAD_TOKENS)
async def test_tokens_that_are_not_good(
    edge: EpCscfServer,
    core: Any,
    make_phone: Any,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    impu: str,
    status: int,
) -> None:
    caplog.set_level("DEBUG", "network_edge")
    token = signed(**changes)
    async with connection(edge) as opened:
        phone = make_phone(opened, impu)
        await phone.register(f"Authorization: Bearer {token}")
        assert (await phone.response()).status == status
    await good_client_is_served(edge, core, make_phone)
    assert token not in caplog.text
    assert token.rsplit(".", 1)[1] not in caplog.text


async def test_a_good_token_opens_nobody_elses_line(edge: EpCscfServer, core: Any, make_phone: Any) -> None:
    """Replayed over a connection on which somebody else is registered: it speaks for its own identities only."""
    async with connection(edge) as opened:
        guest = make_phone(opened, f"sip:guest7@{HOME}")
        mine = signed(sub="guest7", impi=f"guest7@{HOME}", impu=[f"sip:guest7@{HOME}"])
        await guest.register(f"Authorization: Bearer {mine}")
        core.register(await core.request("REGISTER"), f"sip:guest7@{HOME}")
        assert (await guest.response()).status == 200
        await guest.register(f"Authorization: Bearer {signed()}")
        assert (await guest.response()).status == 403
    await good_client_is_served(edge, core, make_phone)


@pytest.mark.parametrize(
    "value",
    [
        'Digest username="a", integrity-protected="auth-done", authorization-entity="wwsf.ims.example"',
        'Digest username="alice@ims.example", realm="ims.example", nonce="", uri="sip:ims.example", response="", '
        'integrity-protected="yes"',
    ],
)
async def test_trust_that_a_client_claims(edge: EpCscfServer, core: Any, make_phone: Any, value: str) -> None:
    async with connection(edge) as opened:
        phone = make_phone(opened)
        await phone.register(f"Authorization: {value}")
        request = await core.request("REGISTER")
        said = str(request.headers.get("Authorization"))
        assert "auth-done" not in said
        assert "authorization-entity" not in said
        assert 'integrity-protected="ip-assoc-pending"' in said
        core.answer(request, 403)
        assert (await phone.response()).status == 403


INJECTED = "P-Asserted-Identity: <sip:boss@ims.example>"
INJECTIONS = [
    pytest.param(f"Subject: x\r{INJECTED}", id="bare CR"),
    pytest.param(f"Subject: x\n{INJECTED}", id="bare LF"),
    pytest.param(f"Subject: x\0{INJECTED}", id="NUL"),
    pytest.param(f"Subject: x\r\n {INJECTED}", id="folded line"),
    pytest.param(f'Contact: "x%0d%0a{INJECTED}" <sip:a@a.invalid;transport=ws>', id="escaped in a display name"),
    pytest.param("Contact: <sip:a@a.invalid;x=%0d%0aP-Asserted-Identity%3A%20boss>", id="escaped in a URI"),
    pytest.param(f'User-Agent: "x\\\r\n{INJECTED}"', id="quoted pair before the line's end"),
]


@pytest.mark.parametrize("line", INJECTIONS)
async def test_lines_within_fields(edge: EpCscfServer, core: Any, make_phone: Any, line: str) -> None:
    """Whatever becomes of it, no field that the client has smuggled reaches the core."""
    async with connection(edge) as opened:
        phone = make_phone(opened)
        await phone.register(f"Authorization: Bearer {signed()}", line)
        try:
            answered = asyncio.create_task(phone.response())
            asked = asyncio.create_task(core.request("REGISTER"))
            done, _ = await asyncio.wait({answered, asked}, return_when=asyncio.FIRST_COMPLETED)
            if asked in done:
                assert asked.result().headers.get("P-Asserted-Identity") is None
                core.answer(asked.result(), 403)
                await answered
            else:
                asked.cancel()
                assert answered.result().status == 400
        except ConnectionClosed:
            asked.cancel()
    await good_client_is_served(edge, core, make_phone)
