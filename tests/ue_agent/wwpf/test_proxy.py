"""The whole web proxy between a client, an operator with AKA log-in, a software card and a SIF.

Requirements S7-WWPF, S7-AUTH, S7-SIF (who may use it).
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest

from imskit.aka.sqn import SqnGenerator
from imskit.secrets import Identity
from ue_agent.wwpf.agent import AgentError
from ue_agent.wwpf.config import Address
from ue_agent.wwpf.handover import SECRET_HEADER
from ue_agent.wwpf.proxy import WebProxy, WwpfError

if TYPE_CHECKING:
    from conftest import Stage

SCRIPT = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin"}


# -- log-in


@pytest.mark.parametrize("algorithm", ["AKAv1-MD5", "AKAv2-MD5", "AKAv1-SHA-256", "AKAv2-SHA-256"])
async def test_the_card_logs_the_browser_in(stage: Stage, algorithm: str) -> None:
    stage.operator.algorithms = [algorithm]
    response, text = await stage.get("/?a=b&c=%20")
    assert (response.status, text) == (200, "welcome")
    assert not {"WWW-Authenticate", "Authentication-Info"} & set(response.headers)
    assert len(response.headers.getall("Set-Cookie")) == 2
    first, second = stage.operator.of("/?a=b&c=%20")
    assert 'nonce=""' in first["Authorization"]
    assert 'response=""' in first["Authorization"]
    assert 'realm="portal.ims.example"' in first["Authorization"]
    assert f"algorithm={algorithm}" in second["Authorization"]
    assert stage.service.state == "login"


async def test_the_first_challenge_that_a_card_can_answer_is_taken(stage: Stage) -> None:
    stage.operator.algorithms = ["AKAv3-MD5", "MD5", "AKAv2-SHA-256", "AKAv1-MD5"]
    await stage.log_in()
    assert "algorithm=AKAv2-SHA-256" in stage.operator.of("/")[1]["Authorization"]


async def test_who_is_logged_in_is_not_logged_in_again(stage: Stage) -> None:
    cookie = await stage.log_in()
    _, text = await stage.get("/", Cookie=cookie)
    assert text == "page for a user"
    assert "Authorization" not in stage.operator.of("/")[-1]
    assert stage.card.answers == 1


async def test_a_forgotten_session_leads_to_a_new_log_in(stage: Stage) -> None:
    cookie = await stage.log_in()
    stage.operator.sessions.clear()
    response, text = await stage.get("/protected", Cookie=cookie)
    assert (response.status, text) == (200, "welcome")
    assert stage.card.answers == 2


async def test_also_for_a_script_of_the_page(stage: Stage) -> None:
    cookie = await stage.log_in()
    stage.operator.sessions.clear()
    response, text = await stage.request("POST", "/api/strict", SCRIPT | {"Cookie": cookie}, body=b"{}")
    assert (response.status, text) == (200, "welcome")


async def test_resynchronisation(stage: Stage) -> None:
    await stage.log_in()
    stage.operator.sqn = SqnGenerator()  # the operator's counter is behind the card's
    response, text = await stage.get("/")
    assert (response.status, text) == (200, "welcome")
    assert stage.operator.resyncs == 1


async def test_only_one_resynchronisation(stage: Stage) -> None:
    await stage.log_in()
    stage.operator.behaviour = "ignore-resync"  # the same number again and again
    response, text = await stage.get("/")
    assert response.status == 403
    assert "sequence numbers" in text
    assert stage.operator.resyncs == 1


async def test_a_network_that_the_card_does_not_know(stage: Stage) -> None:
    stage.operator.behaviour = "wrong-mac"
    response, text = await stage.get("/")
    assert response.status == 403
    assert "does not recognise the operator" in text
    assert len(stage.operator.of("/")) == 1  # nothing was answered


async def test_a_rejected_card(stage: Stage) -> None:
    stage.operator.behaviour = "reject"
    response, text = await stage.get("/")
    assert response.status == 403
    assert "did not accept the answer of this SIM card" in text
    assert stage.service.state == "login-failed"


async def test_a_refusal_in_the_operators_own_words(stage: Stage) -> None:
    stage.operator.behaviour = "forbid"
    response, text = await stage.get("/")
    assert (response.status, text) == (403, "the operator's own words")


async def test_a_nonce_that_has_grown_old(stage: Stage) -> None:
    stage.operator.behaviour = "stale"
    await stage.log_in()
    assert stage.card.answers == 2


async def test_an_unready_card(stage: Stage) -> None:
    stage.card.error = AgentError("not-ready", "There is no SIM card in the <reader>.")
    response, text = await stage.get("/")
    assert response.status == 503
    assert "There is no SIM card in the &lt;reader&gt;." in text
    assert response.headers["Cache-Control"] == "no-store"
    stage.card.error = None
    await stage.log_in()


async def test_an_agent_that_is_gone(stage: Stage) -> None:
    await stage.service.aclose()
    response, text = await stage.get("/")
    assert response.status == 503
    assert "is not running" in text


async def test_an_unreachable_portal(stage: Stage) -> None:
    port = stage.operator.port
    await stage.operator.stop()
    response, text = await stage.get("/")
    assert response.status == 502
    assert "portal.ims.example cannot be reached" in text
    stage.names.discard("portal.ims.example")
    assert "cannot be resolved" in (await stage.get("/"))[1]
    stage.names.add("portal.ims.example")
    stage.operator.port = port
    await stage.operator.start(stage.ca.context("wrong.ims.example"), stage.ca.context("www.other.example"))
    response, text = await stage.get("/")
    assert response.status == 502
    assert "certificate of portal.ims.example cannot be trusted" in text


async def test_two_tabs_at_once(stage: Stage) -> None:
    results = await asyncio.gather(*(stage.get("/") for _ in range(4)))
    assert [text for _, text in results] == ["welcome"] * 4
    assert stage.operator.resyncs == 0


async def test_log_ins_are_limited(stage: Stage) -> None:
    stage.operator.cookie = "Path=/"  # a portal that never lets anybody stay logged in
    texts = [(await stage.get("/"))[1] for _ in range(12)]
    assert texts[:10] == ["welcome"] * 10
    assert "too many log-ins" in texts[-1]


# -- sessions


async def test_a_rotated_cookie_stays_logged_in_and_a_deleted_one_does_not(stage: Stage) -> None:
    old = await stage.log_in()
    response, _ = await stage.request("GET", "/rotate", SCRIPT | {"Cookie": old})
    new = response.headers.getall("Set-Cookie")[0].partition(";")[0]
    assert new != old
    await stage.get("/", Cookie=new)
    assert stage.card.answers == 1
    await stage.get("/", Cookie=old)
    assert stage.card.answers == 2
    await stage.request("POST", "/logout", SCRIPT | {"Cookie": new}, body=b"")
    await stage.get("/", Cookie=new)
    assert stage.card.answers == 3


async def test_turn_credentials_are_told_to_the_agent(stage: Stage) -> None:
    """Requirement S7-TURN: the credential that the page has is the one that the TURN proxy accepts."""
    assert (await stage.request("GET", "/api/turn", SCRIPT))[0].status == 401
    cookie = await stage.log_in()
    _, text = await stage.request("GET", "/api/turn?x=1", SCRIPT | {"Cookie": cookie})
    assert "turn-secret" in text
    assert stage.card.turn == [("1700000000:web", "turn-secret", 600.0)]
    status, _ = await stage.curl(stage.portal + "/api/turn", "-H", f"Cookie: {cookie}")
    assert status == 200  # it has stolen the cookie, and the operator believes it
    assert len(stage.card.turn) == 1


async def test_a_session_that_ended_while_the_page_is_open(stage: Stage) -> None:
    """The operator was started anew: what a page asks for is answered after a new log-in, without loading it again."""
    cookie = await stage.log_in()
    stage.operator.sessions.clear()
    response, text = await stage.request("GET", "/api/turn", SCRIPT | {"Cookie": cookie})
    assert response.status == 200
    assert "turn-secret" in text
    assert len(stage.card.turn) == 1
    assert stage.card.answers == 2
    fresh = response.headers.getall("Set-Cookie")[0].partition(";")[0]
    async with await connect(stage, Origin=stage.portal, Cookie=fresh):
        pass


async def test_a_page_that_was_never_logged_in_stays_so(stage: Stage) -> None:
    """Its 401 is the operator's word; a log-in begins with a page load."""
    response, _ = await stage.request("GET", "/api/turn", SCRIPT | {"Cookie": "session=of-another-kind-and-long"})
    assert response.status == 401
    assert stage.card.answers == 0


# -- who is not logged in


async def test_another_program_gets_the_page_without_log_in(stage: Stage) -> None:
    headers = [argument for name, value in SCRIPT.items() for argument in ("-H", f"{name}: {value}")]
    assert await stage.curl(stage.portal + "/", "-H", "Sec-Fetch-Mode: navigate", "-H", "Sec-Fetch-Dest: document") == (
        200,
        "page for anyone",
    )
    status, text = await stage.curl(stage.portal + "/protected", *headers)
    assert (status, text) == (401, "log in")
    # Its own attempt to speak Digest does not get through, so it cannot even make the operator's counter run.
    await stage.curl(stage.portal + "/", "-H", 'Authorization: Digest username="x", nonce="", response=""')
    assert all("Authorization" not in headers for headers in stage.operator.of("/"))
    assert stage.card.answers == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "cross-site", "Origin": "https://x"},
    ],
)
async def test_another_page_in_the_browser_starts_no_log_in(stage: Stage, headers: dict[str, str]) -> None:
    response, _ = await stage.request("GET", "/protected", headers)
    assert response.status == 401
    assert "WWW-Authenticate" not in response.headers  # the browser sees no challenge
    response, _ = await stage.request("POST", "/protected", headers, body=b"x")
    assert response.status == 401
    assert stage.card.answers == 0


async def test_a_page_with_credentials_of_its_own_keeps_them(stage: Stage) -> None:
    _, text = await stage.get("/", Authorization="Bearer abc")
    assert text == "page for anyone"
    assert stage.operator.of("/")[0]["Authorization"] == "Bearer abc"


# -- the operator's WebSocket


async def connect(stage: Stage, **headers: str) -> aiohttp.ClientWebSocketResponse:
    return await stage.client.ws_connect(
        stage.websocket + "/sip",
        proxy=f"http://{stage.proxy.address}",
        protocols=["sip"],
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )


async def test_the_pages_websocket_reaches_the_sif(stage: Stage) -> None:
    cookie = await stage.log_in()
    async with await connect(stage, Origin=stage.portal, Cookie=cookie) as websocket:
        assert websocket.protocol == "sip"
        for size in (5, 70_000):
            await websocket.send_str("x" * size)
            assert await websocket.receive_str() == "SIF: " + "x" * size
    (seen,) = stage.sif.requests
    assert seen["Origin"] == stage.portal
    assert seen["Host"] == "ws.ims.example"
    assert "Cookie" not in seen
    assert not stage.operator.of("/sip")


@pytest.mark.parametrize("case", ["origin", "two-origins", "no-origin", "cookie", "no-cookie", "own-cookie", "agent"])
async def test_no_other_websocket_does(stage: Stage, case: str) -> None:
    cookie = await stage.log_in()
    headers = {"Origin": stage.portal, "Cookie": cookie}
    if case == "origin":
        headers["Origin"] = "https://portal.ims.example.evil.example"
    elif case == "two-origins":
        headers["Origin"] = f"{stage.portal} https://evil.example"
    elif case == "no-origin":
        del headers["Origin"]
    elif case == "cookie":
        headers["Cookie"] = "session=token-of-a-session-999"
    elif case == "no-cookie":
        del headers["Cookie"]
    elif case == "own-cookie":
        headers["Cookie"] = "language=en"  # set by the operator at log-in, but everyone could guess it
    else:
        await stage.service.aclose()
    headers[SECRET_HEADER] = "guessed"
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await connect(stage, **headers)
    assert caught.value.status == 403
    assert not stage.sif.requests
    assert not stage.operator.of("/sip")


async def test_another_program_cannot_even_with_the_cookie(stage: Stage) -> None:
    cookie = await stage.log_in()
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Origin": stage.portal,
        "Cookie": cookie,
    }
    arguments = [argument for name, value in upgrade.items() for argument in ("-H", f"{name}: {value}")]
    status, text = await stage.curl(stage.websocket + "/sip", *arguments)
    assert status == 403
    assert "This program may not use the phone." in text
    # Nor past the WWPF, straight to the SIF, with or without a guess.
    direct = f"http://{stage.sif.address}/sip"
    assert (await stage.curl(direct, *arguments))[0] == 403
    assert (await stage.curl(direct, *arguments, "-H", f"{SECRET_HEADER}: guessed"))[0] == 403
    assert not stage.sif.requests
    assert stage.sif.refused == 2


async def test_a_secret_that_a_client_sends_is_taken_out(stage: Stage) -> None:
    await stage.request("GET", "/x", SCRIPT | {SECRET_HEADER: "mine"})
    assert SECRET_HEADER not in stage.operator.of("/x")[0]
    cookie = await stage.log_in()
    async with await connect(stage, Origin=stage.portal, Cookie=cookie, **{SECRET_HEADER: "mine"}):
        pass
    assert "mine" not in stage.sif.requests[0][SECRET_HEADER]


async def test_a_restarted_agent_has_forgotten_nobody_and_another_card_everybody(stage: Stage) -> None:
    stage.service.belongs_to(Identity("user@home.example"))
    cookie = await stage.log_in()
    await stage.proxy.aclose()
    second = WebProxy(dataclasses.replace(stage.config, listen=Address("127.0.0.1", 0)))
    await second.start()
    try:
        stage.proxy = second
        async with await connect(stage, Origin=stage.portal, Cookie=cookie):
            pass
        stage.service.belongs_to(Identity("other@home.example"))
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await connect(stage, Origin=stage.portal, Cookie=cookie)
    finally:
        await second.aclose()


# -- what is not touched


async def issuer_of(stage: Stage, host: str) -> str:
    """Return who signed the certificate that a client of the proxy is shown."""
    reader, writer = await asyncio.open_connection(*stage.proxy.address)
    writer.write(f"CONNECT {host}:{stage.operator.port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    trust = ssl.create_default_context(cafile=stage.config.state / "ca.pem")
    trust.load_verify_locations(stage.ca.file)
    await writer.start_tls(trust, server_hostname=host)
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return dict(field[0] for field in certificate["issuer"])["commonName"]


async def test_each_host_shows_its_own_certificate_but_the_operators(stage: Stage) -> None:
    assert (await issuer_of(stage, "portal.ims.example")).startswith("imsbridge on this device")
    assert await issuer_of(stage, "www.other.example") == "Public CA of the test"
    assert await issuer_of(stage, "turn.ims.example") == "Public CA of the test"


async def test_another_host_gets_the_request_as_it_is(stage: Stage) -> None:
    base = f"https://www.other.example:{stage.operator.port}"
    _, text = await stage.request("GET", "/x", {"Authorization": 'Digest username="me"', SECRET_HEADER: "s"}, base)
    assert text == "log in"
    seen = stage.operator.of("/x")[0]
    assert (seen["Authorization"], seen[SECRET_HEADER]) == ('Digest username="me"', "s")


async def test_plain_http_to_another_host_passes(stage: Stage) -> None:
    status, text = await stage.curl(stage.proxy.pac_url or "", "-H", f"{SECRET_HEADER}: x", "-v")
    assert status == 200
    assert "FindProxyForURL" in text


async def test_plain_http_to_the_portal_is_led_to_https(stage: Stage) -> None:
    status, text = await stage.curl("http://portal.ims.example/a?b", "-o", "/dev/null", "-w", "%{redirect_url}\n200")
    assert text == f"{stage.portal}/a?b"
    assert status == 200
    assert not stage.operator.seen


async def test_the_name_inside_tls_must_be_the_one_asked_for(stage: Stage) -> None:
    """``CONNECT`` to one host, ClientHello for another: tunnelled, so nothing is decided on a false name."""
    reader, writer = await asyncio.open_connection(*stage.proxy.address)
    writer.write(f"CONNECT portal.ims.example:{stage.operator.port} HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(ssl.create_default_context(cafile=stage.ca.file), server_hostname="ws.ims.example")
    assert dict(field[0] for field in writer.get_extra_info("peercert")["issuer"])["commonName"].startswith("Public")
    writer.transport.abort()


async def test_a_request_that_names_another_host_is_refused(stage: Stage) -> None:
    response, _ = await stage.get("/", Host=f"ws.ims.example:{stage.operator.port}")
    assert response.status == 421
    assert not stage.operator.seen


@pytest.mark.parametrize("size", [10, 3 * 1024 * 1024])
async def test_bodies_pass_both_ways(stage: Stage, size: int) -> None:
    cookie = await stage.log_in()
    response, text = await stage.request("POST", "/body", SCRIPT | {"Cookie": cookie}, body=b"x" * size)
    assert (response.headers["X-Length"], len(text)) == (str(size), size)


async def test_an_operator_host_that_is_no_portal_passes(stage: Stage) -> None:
    _, text = await stage.request("GET", "/", {"Sec-Fetch-Mode": "navigate"}, stage.websocket)
    assert text == "page for anyone"


async def test_without_an_agent_nobody_is_logged_in(stage: Stage) -> None:
    alone = dataclasses.replace(stage.config, agent=None, handover=None, listen=Address("127.0.0.1", 0), pac=None)
    proxy = WebProxy(alone)
    await proxy.start()
    try:
        stage.proxy = proxy
        assert (await stage.get("/"))[1] == "page for anyone"
        async with await connect(stage, Origin=stage.portal) as websocket:
            assert await websocket.receive_str() == "from the operator"
    finally:
        await proxy.aclose()


async def test_a_taken_address_is_named(stage: Stage) -> None:
    with pytest.raises(WwpfError, match=f"cannot listen on {stage.proxy.address}"):
        await WebProxy(dataclasses.replace(stage.config, listen=stage.proxy.address)).start()
    assert stage.service.state == "failed"
