"""What others on the network and in the browser are refused by the network edge (issue 4, bad input; S7-SEC).

The attackers know everything but the secrets: names, addresses, ports, identities, and what their victim's browser
sends.  The edge logs as much as it can all the while: the last test looks for secrets in what it wrote.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from joserfc import jwt
from OpenSSL import SSL
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from imskit.sip.wire.message import Response, parse_message
from imskit.stun.wire import attributes as a
from imskit.stun.wire.message import Method, request
from network_edge.wwsf.tokens.keys import KeyRing
from simulators.lab.browser import Browser, PhonePage
from simulators.lab.control import until
from simulators.lab.edge_demo import DIGEST, RANGE, TOKEN, log_in
from simulators.lab.host import Host
from simulators.lab.lab import (
    DIGEST_PASSWORD,
    DOMAIN,
    LAPTOP_NUMBER,
    LAPTOP_PASSWORD,
    LINE_PASSWORD,
    OTHER_URL,
    PHONE_NUMBER,
    PORTAL,
    PORTAL_URL,
    RANGE_PASSWORD,
    WEBSOCKET,
    Lab,
)
from simulators.lab.topology import EDGE_IMS, OPERATOR_EDGE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="session")]

_NEVER = 1e9
ALICE = f"sip:{LAPTOP_NUMBER}@{DOMAIN}"
_OWN_TOKEN = """async () => {
  const headers = { 'Content-Type': 'application/json' };
  return (await (await fetch('/api/token', { method: 'POST', headers, body: '{}' })).json()).token;
}"""
_FETCH = """async ([url, options]) => {
  try {
    const answer = await fetch(url, { credentials: 'include', ...options });
    return `${answer.type} ${answer.status} ${await answer.text()}`;
  } catch (error) {
    return error.name;
  }
}"""
_SOCKET = """(url) => new Promise((done) => {
  const socket = new WebSocket(url, 'sip');
  socket.onopen = () => done('open');
  socket.onclose = ({ code }) => done(`closed ${code}`);
})"""


@dataclass
class Victim:
    """Alice's page on the laptop, logged in; what it sent over its WebSocket, and secrets seen so far."""

    page: PhonePage
    sent: list[str] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)

    async def token(self) -> str:
        """A token of this log-in."""
        return await _token(self, self.page)


async def _token(victim: Victim, page: PhonePage) -> str:
    token: str = await page.page.evaluate(_OWN_TOKEN)
    victim.secrets.add(token)
    return token


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def edge(lab: Lab) -> AsyncIterator[Lab]:
    """The lab with the edge, which logs all it can."""
    await lab.start_edge(log_level="debug")
    yield lab
    await lab.stop_edge()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser(edge: Lab) -> AsyncIterator[Browser]:
    """A browser on the laptop."""
    async with Browser(edge.net.laptop, edge.root / "laptop.wav", "laptop-attacks") as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(browser: Browser) -> Victim:
    """Alice, ready for calls."""
    page = await browser.new_page()
    victim = Victim(PhonePage(page))
    page.on("websocket", lambda made: made.on("framesent", lambda data: victim.sent.append(str(data))))
    await log_in(victim.page, TOKEN)
    victim.secrets |= {cookie["value"] for cookie in await page.context.cookies()}
    assert victim.secrets
    return victim


@asynccontextmanager
async def _client(lab: Lab, host: Host) -> AsyncIterator[ClientConnection]:
    """Another program's connection to the eP-CSCF; it gives the Origin that is wanted."""
    sock = host.socket(socket.AF_INET, socket.SOCK_STREAM)
    await asyncio.get_running_loop().sock_connect(sock, (OPERATOR_EDGE, 443))
    trust = ssl.create_default_context(cafile=lab.operator_ca.root)
    origin, sip = Origin(f"https://{PORTAL}"), Subprotocol("sip")
    async with connect(f"wss://{WEBSOCKET}/sip", sock=sock, ssl=trust, origin=origin, subprotocols=[sip]) as connection:
        yield connection


async def _register(connection: ClientConnection, token: str, instance: str = "", user: str = ALICE) -> Response:
    """Send a REGISTER with a token; returns the final answer."""
    mark = secrets.token_hex(8)
    instance = instance or f"<urn:uuid:00000000-0000-4000-8000-{mark[:12]}>"
    lines = [
        f"REGISTER sip:{DOMAIN} SIP/2.0",
        f"Via: SIP/2.0/WSS {mark}.invalid;branch=z9hG4bK{mark}",
        "Max-Forwards: 69",
        f"From: <{user}>;tag={mark}",
        f"To: <{user}>",
        f"Call-ID: {mark}",
        "CSeq: 1 REGISTER",
        f'Contact: <sip:mallory@{mark}.invalid;transport=ws>;+sip.instance="{instance}";reg-id=1',
        "Expires: 600",
        "Supported: path, outbound",
        f"Authorization: Bearer {token}",
        "Content-Length: 0",
    ]
    await connection.send("\r\n".join([*lines, "", ""]))
    async with asyncio.timeout(30):
        while True:
            data = await connection.recv()
            message = parse_message(data.encode() if isinstance(data, str) else data)
            if isinstance(message, Response) and message.status >= 200:
                return message


async def _registered(lab: Lab, count: int) -> None:
    async def look() -> bool:
        return bool((await lab.edge_status())["registrations"] == count)

    await until(look, f"{count} are registered")


# ---- pages of others -------------------------------------------------------------------------------------------------


async def test_a_foreign_page_gets_nothing(edge: Lab, browser: Browser, victim: Victim) -> None:
    """In the same browser as the user's own: no answer that it can read, no token, no log-out, no WebSocket."""
    before = await edge.edge_status()
    page = await browser.new_page()
    await page.goto(OTHER_URL)
    post = {"method": "POST", "body": "{}"}
    for path, options in (("api/session", {}), ("api/turn", {}), ("api/token", post), ("api/logout", post)):
        assert await page.evaluate(_FETCH, [PORTAL_URL + path, options]) == "TypeError"
        opaque = await page.evaluate(_FETCH, [PORTAL_URL + path, {**options, "mode": "no-cors"}])
        assert opaque in ("opaque 0 ", "TypeError"), opaque
    assert await page.evaluate(_SOCKET, f"wss://{WEBSOCKET}/sip") == "closed 1006"
    await page.close()
    own = await victim.page.page.evaluate(_FETCH, ["/api/session", {}])
    assert own.startswith("basic 200 ")
    after = await edge.edge_status()
    assert (after["registrations"], after["log_ins"]) == (before["registrations"], before["log_ins"])


# ---- tokens of others ------------------------------------------------------------------------------------------------


async def test_a_stolen_token_ends_with_its_owners_log_out(edge: Lab, browser: Browser, victim: Victim) -> None:
    """Over the thief's own connection, from another address; what it had registered before is known for what it is."""
    context = await browser.driver.new_context()
    page = PhonePage(await context.new_page())
    await log_in(page, TOKEN)
    stolen = await _token(victim, page)
    await page.page.click("#log-out")
    await page.until("session", "out")
    await context.close()
    await _registered(edge, 1)
    async with _client(edge, edge.net.handset) as connection:
        answer = await _register(connection, stolen)
        assert answer.status == 401 and "invalid_token" in (answer.headers.get("WWW-Authenticate") or "")
    await _registered(edge, 1)


async def test_an_expired_or_altered_token_is_refused(edge: Lab, victim: Victim) -> None:
    """Expired: signed by the portal itself, with its own key, for a time that is over."""
    good = await victim.token()
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    kept = edge.root / "edge-state" / "token-keys.json"
    assert kept.stat().st_mode & 0o077 == 0
    key = KeyRing(kept, _NEVER, _NEVER, time.time).signing()
    now = int(time.time())
    header = {"alg": "ES256", "kid": key.kid, "typ": "at+jwt"}
    expired = jwt.encode(header, {**claims, "iat": now - 7200, "exp": now - 3600}, key)
    again = jwt.encode(header, {**claims, "iat": now, "exp": now + 60}, key)
    victim.secrets |= {expired, again}
    altered = ".".join([head, body, signature[::-1]])
    async with _client(edge, edge.net.handset) as connection:
        for token in (expired, altered, f"{head}.{body}."):
            answer = await _register(connection, token)
            assert answer.status == 401, answer
        await _registered(edge, 1)
        assert (await _register(connection, again)).status == 200  # so it was the time
    await _gone(edge)


async def _gone(edge: Lab) -> None:
    """The attacker's connection is closed; its registration ends when the edge sees no return."""

    async def look() -> bool:
        return bool((await edge.edge_status())["connections"] == 1)

    await until(look, "only the victim is connected")


# ---- identities of others --------------------------------------------------------------------------------------------


async def test_another_user_with_the_same_instance_takes_nothing_over(
    edge: Lab, browser: Browser, victim: Victim
) -> None:
    """Instance and contact are no secrets: with them another user is still another, and no call goes astray."""
    sent = next(text for text in victim.sent if text.startswith("REGISTER "))
    instance = re.search(r'\+sip\.instance="(<urn:uuid:[^"]+>)"', sent)
    assert instance is not None
    context = await browser.driver.new_context()
    page = PhonePage(await context.new_page())
    await log_in(page, RANGE)
    token = await _token(victim, page)
    own = json.loads((await page.page.evaluate(_FETCH, ["/api/session", {}])).partition(" 200 ")[2])["sip"]["uri"]
    async with _client(edge, edge.net.handset) as connection:
        assert (await _register(connection, token, instance[1])).status == 403
        assert (await _register(connection, token, instance[1], own)).status == 200
        await edge.phone("POST", "/dial", target=f"tel:{LAPTOP_NUMBER}")
        await victim.page.until("call", "ringing-in")
        await victim.page.press("answer")
        await victim.page.until("call", "talking")
        await victim.page.press("hangup")
        await victim.page.until("call", "ended")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.recv(), 0.2)
    await context.close()
    await _gone(edge)


# ---- floods ----------------------------------------------------------------------------------------------------------


def _stun() -> bytes:
    """A check as ICE makes it, of someone without the password."""
    return request(Method.BINDING, secrets.token_bytes(12), [a.USERNAME("mallory:mallory")]).encode()


def _rtp() -> bytes:
    return b"\x80\x6f" + secrets.token_bytes(10) + secrets.token_bytes(60)


def _dtls() -> bytes:
    client = SSL.Connection(SSL.Context(SSL.DTLS_CLIENT_METHOD), None)
    client.set_connect_state()
    client.set_ciphertext_mtu(1200)
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(4096)


@pytest.mark.parametrize("make", [_stun, _rtp, _dtls], ids=["stun", "rtp", "dtls-hello"])
async def test_speech_survives_a_flood(edge: Lab, victim: Victim, make: object) -> None:
    """At all ports of the call, on both sides, from another host of the network."""
    assert callable(make)
    page = victim.page
    await page.until("call", "idle")
    await page.dial(PHONE_NUMBER)
    await page.until("call", "talking")
    packets = [make() for _ in range(50)]
    targets = list(_media_ports(edge))
    assert {address for address, _ in targets} == {OPERATOR_EDGE, EDGE_IMS}
    before = await _packets(page)
    sent = 0
    with edge.net.handset.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for packet, target in itertools.islice(zip(itertools.cycle(packets), itertools.cycle(targets)), 20_000):
            sock.sendto(packet, target)
            sent += 1
            if sent % 50 == 0:
                await asyncio.sleep(0.01)  # some thousand a second

    async def goes_on() -> bool:
        now = await _packets(page)
        return all(each > first + 100 for first, each in zip(before, now, strict=True))

    await until(goes_on, "speech goes on both ways")
    assert await page.data("call") == "talking"
    await page.press("hangup")
    await page.until("call", "ended")
    ended = await _last_call(edge)
    assert "hung up" in ended or "BYE" in ended or "normal" in ended.lower(), ended


async def _last_call(edge: Lab) -> str:
    async def over() -> str:
        status = await edge.phone("GET", "/status")
        return str(status["last_call"]) if status["call"] is None else ""

    return await until(over, "the phone's call is over")


def _media_ports(edge: Lab) -> Iterator[tuple[str, int]]:
    """Where the gateway awaits media now."""
    for address in (OPERATOR_EDGE, EDGE_IMS):
        listed = edge.net.operator.run("ss", "--no-header", "--udp", "--all", "--numeric", "src", address)
        for port in re.findall(rf"{re.escape(address)}:(\d+)\b", listed):
            if int(port) >= 49152:
                yield address, int(port)


async def _packets(page: PhonePage) -> tuple[int, int]:
    """How many packets were sent and received, as the page shows it."""
    text = await page.page.text_content("#statistics dl") or ""
    found = [re.search(rf"{name}\s*(\d+) packets", text) for name in ("Sent", "Received")]
    return tuple(int(match[1]) if match else 0 for match in found)  # type: ignore[return-value]


# ---- what the edge wrote ---------------------------------------------------------------------------------------------


async def test_no_secret_is_in_any_log(edge: Lab, browser: Browser, victim: Victim) -> None:
    """Passwords, tokens, cookies, identities of cards: neither in the log at its most talkative nor in the events."""
    context = await browser.driver.new_context()
    await log_in(PhonePage(await context.new_page()), DIGEST)
    victim.secrets |= {cookie["value"] for cookie in await context.cookies()}
    await context.close()
    wrote = edge.processes["edge"].log.read_text(errors="replace") + edge.events("edge").read_text()
    assert " DEBUG " in wrote
    wanted = victim.secrets | {LAPTOP_PASSWORD, DIGEST_PASSWORD, LINE_PASSWORD, RANGE_PASSWORD, edge.turn_secret}
    wanted |= {part for token in victim.secrets for part in token.split(".")[1:] if len(part) > 20}
    wanted |= {"001010000000001", "001010000000002"}
    assert [text for text in wanted if text in wrote] == []
