"""What others on the device, in the browser and on the network are refused (issue 2, done-when 4; S7-SEC).

The attackers know everything but the secrets: addresses, ports, names, headers, the subscriber's identity.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from imskit.observe.events import read_events
from imskit.secrets import Secret
from imskit.stun.wire import attributes as a
from imskit.stun.wire.keys import long_term_key
from imskit.stun.wire.message import Message, MessageClass, Method, parse_message, request
from simulators.lab.browser import Browser, PhonePage
from simulators.lab.host import Host
from simulators.lab.lab import DOMAIN, OTHER_URL, PHONE_NUMBER, PORTAL, PORTAL_URL, TURN, USER_NUMBER, WEBSOCKET, Lab
from simulators.lab.topology import (
    HANDSET_IMS,
    HANDSET_TURN,
    HANDSET_WAN,
    OPERATOR_PORTAL,
    OTHER_HOST,
    P_CSCF,
    PHONE_IMS,
)
from simulators.lab.world import LabError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="session")]

PROXY = "http://127.0.0.1:8080"
TURN_SERVER = (HANDSET_TURN, 3478)
IMPI = f"001010000000001@{DOMAIN}"
NOBODY = 65534
HELP_ADDRESS, HELP = "203.0.113.11", "help.ims.example"
BROWSER_HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-User": "?1",
    "Upgrade-Insecure-Requests": "1",
}
WEBSOCKET_HEADERS = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(range(16))).decode(),
    "Sec-WebSocket-Protocol": "sip",
    "Origin": f"https://{PORTAL}",
}


class Quiet:
    """That between its making and `check` neither the card was asked nor the phone called."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before = self._count()
        assert self._before[0] > 0, "the agent's log does not tell of the registration's own AKA run"

    def _count(self) -> tuple[int, ...]:
        lab = self._lab
        log = lab.processes["agent"].log.read_text(errors="replace")
        portal = [event["event"] for event in read_events(lab.events("wwsf"))]
        phone = [event["event"] for event in read_events(lab.events("phone"))]
        core = [event["event"] for event in read_events(lab.events("core"))]
        return (
            log.count("AUTHENTICATE:"),
            portal.count("aka-done"),
            phone.count("incoming"),
            sum("invite" in event.lower() for event in core),
        )

    def check(self) -> None:
        assert self._count() == self._before


@pytest.fixture
def quiet(lab: Lab) -> Quiet:
    return Quiet(lab)


# ---- another program on the device ------------------------------------------------------------------------------


class Answer:
    """What curl was answered."""

    def __init__(self, text: str) -> None:
        head, _, self.body = text.replace("\r\n", "\n").partition("\n\n")
        self.status = int(head.split()[1])
        self.headers = head.lower()


async def _curl(
    lab: Lab,
    url: str,
    headers: dict[str, str] | None = None,
    *,
    proxy: str = PROXY,
    program: str = "curl",
    uid: int = 0,
) -> Answer:
    """Another program on the handset asks for ``url``; one that cares for no certificate."""
    argv = [program, "--silent", "--show-error", "--include", "--insecure", "--http1.1", "--max-time", "10"]
    argv += ["--suppress-connect-headers", "--proxy", proxy] if proxy else ["--noproxy", "*"]
    for name, value in (headers or {}).items():
        argv += ["--header", f"{name}: {value}"]
    if uid:
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *argv]
    return Answer(await asyncio.to_thread(lab.net.handset.run, *argv, url))


@pytest.fixture
def other_user(lab: Lab) -> int:
    """Another user of the handset; a lab in a user namespace has only one."""
    try:
        lab.net.handset.run("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "true")
    except LabError as error:
        pytest.skip(f"no second user here: {error}")
    return NOBODY


def _gets_the_plain_page(answer: Answer) -> None:
    assert answer.status == 200
    assert "<main" in answer.body
    for word in ("set-cookie", "www-authenticate", "authentication-info"):
        assert word not in answer.headers


DIGEST = (
    f'Digest username="{IMPI}", realm="{PORTAL}", uri="/", nonce="{{nonce}}", response="{{response}}", '
    'algorithm=AKAv1-MD5, qop=auth, nc=00000001, cnonce="0123456789abcdef"'
)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        BROWSER_HEADERS,
        {"Authorization": DIGEST.format(nonce="", response="")},
        {**BROWSER_HEADERS, "Authorization": DIGEST.format(nonce="AAAA", response="0" * 32)},
        {**BROWSER_HEADERS, "Proxy-Authorization": DIGEST.format(nonce="", response="")},
    ],
    ids=["plain", "as a browser", "names the subscriber", "guesses an answer", "to the proxy"],
)
async def test_program_at_the_web_proxy_is_not_logged_in(lab: Lab, quiet: Quiet, headers: dict[str, str]) -> None:
    """It gets the page as anybody does; no cookie, no challenge, no answer of the card."""
    _gets_the_plain_page(await _curl(lab, PORTAL_URL, headers))
    quiet.check()


@pytest.mark.parametrize("path", ["api/session", "api/turn"])
async def test_program_gets_nothing_that_is_for_the_page(lab: Lab, quiet: Quiet, path: str) -> None:
    """Not even with the words that a page of the browser would say."""
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    for headers in ({}, {"User-Agent": BROWSER_HEADERS["User-Agent"], **own}):
        answer = await _curl(lab, PORTAL_URL + path, headers)
        assert answer.status == 401
        assert set(json.loads(answer.body)) <= {"error", "log_in"}
        assert "set-cookie" not in answer.headers
    quiet.check()


async def test_another_users_program(lab: Lab, quiet: Quiet, other_user: int) -> None:
    _gets_the_plain_page(await _curl(lab, PORTAL_URL, BROWSER_HEADERS, uid=other_user))
    quiet.check()


async def test_another_users_browser(lab: Lab, quiet: Quiet, other_user: int) -> None:
    """The same executable, but of a user who is not the configured one."""
    profile = lab.root / "handset" / "nobody"
    lab.net.handset.run("install", "-d", "-o", str(other_user), str(profile))
    argv = ["setpriv", f"--reuid={other_user}", f"--regid={other_user}", "--clear-groups"]
    argv += ["env", f"HOME={profile}", "/usr/lib/chromium/chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]
    argv += [
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}/profile",
        "--dump-dom",
        "--virtual-time-budget=5000",
    ]
    lab.root.chmod(0o711)
    (lab.root / "handset").chmod(0o711)
    try:
        shown = await asyncio.to_thread(lab.net.handset.run, *argv, PORTAL_URL)
    finally:
        lab.root.chmod(0o700)
    assert 'data-session="out"' in shown
    quiet.check()


async def test_program_with_a_browsers_name(lab: Lab, quiet: Quiet) -> None:
    """The name of an executable is anybody's choice; its place is not."""
    disguise = lab.root / "chromium"
    shutil.copy(shutil.which("curl") or "", disguise)
    _gets_the_plain_page(await _curl(lab, PORTAL_URL, BROWSER_HEADERS, program=str(disguise)))
    quiet.check()


async def test_program_with_the_pages_cookie(lab: Lab, phone_page: PhonePage) -> None:
    """A stolen cookie opens the portal, as anywhere in the web, but no WebSocket to this device's phone."""
    quiet = Quiet(lab)
    cookies = await phone_page.page.context.cookies(PORTAL_URL)
    stolen = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies)
    assert stolen
    headers = {**WEBSOCKET_HEADERS, "Cookie": stolen, "User-Agent": BROWSER_HEADERS["User-Agent"]}
    answer = await _curl(lab, f"https://{WEBSOCKET}/sip", headers)
    assert answer.status == 403
    assert "This program may not use the phone" in answer.body
    quiet.check()


# ---- the SIF's WebSocket ------------------------------------------------------------------------------------------


def _listening(lab: Lab, kind: str = "t") -> dict[tuple[str, int], str]:
    """Sockets on which the handset's programs listen: address and port, and whose they are."""
    found = {}
    for line in lab.net.handset.run(
        "ss", "--no-header", "--listening", "--numeric", "--processes", f"-{kind}"
    ).splitlines():
        fields = line.split()
        at = next(field for field in fields[2:] if re.fullmatch(r".*:\d+", field))
        host, _, port = at.rpartition(":")
        found[host.partition("%")[0].strip("[]"), int(port)] = fields[-1]
    return found


@pytest.fixture
def sif(lab: Lab) -> int:
    """The SIF's port: the agent's only listening one on 127.0.0.1 that is neither DNS, proxy nor PAC."""
    agent = f"pid={lab.processes['agent'].pid},"
    ports = [
        port for (host, port), who in _listening(lab).items() if host == "127.0.0.1" and port > 9000 and agent in who
    ]
    assert len(ports) == 1
    return ports[0]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"Imsbridge-Handover": ""},
        {"Imsbridge-Handover": base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")},
        {"Imsbridge-Handover": "\u00e9" * 43},
    ],
    ids=["none", "empty", "guessed", "not ASCII"],
)
async def test_sif_takes_nobody_without_the_secret(lab: Lab, quiet: Quiet, sif: int, more: dict[str, str]) -> None:
    for path in ("/", "/sip"):
        answer = await _curl(lab, f"http://127.0.0.1:{sif}{path}", {**WEBSOCKET_HEADERS, **more}, proxy="")
        assert answer.status == 403
        assert "sec-websocket-accept" not in answer.headers
    quiet.check()


async def test_secret_cannot_be_sent_through_the_proxy(lab: Lab, quiet: Quiet) -> None:
    headers = {**WEBSOCKET_HEADERS, "Imsbridge-Handover": "x"}
    assert (await _curl(lab, f"https://{WEBSOCKET}/sip", headers)).status == 403
    quiet.check()


# ---- the agent's Unix sockets -----------------------------------------------------------------------------------

SAY = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(10)
client.connect(sys.argv[1])
try:
    client.sendall(sys.argv[2].encode() + b"\\n")
    print(client.recv(65536).decode())
except (BrokenPipeError, ConnectionResetError):
    pass
"""


async def _say(lab: Lab, path: Path, text: str, uid: int = 0) -> str:
    """Another program on the handset sends a line to a Unix socket; what it is answered before the end."""
    argv = [sys.executable, "-c", SAY, str(path), text]
    if uid:
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *argv]
    return (await asyncio.to_thread(lab.net.handset.run, *argv)).strip()


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "op": "hello", "secret": "guessed"},
        {"id": 1, "op": "identity"},
        {"id": 1, "op": "answer", "challenge": 'Digest realm="x"', "method": "GET", "uri": "/"},
        {"id": 1, "op": "turn", "username": "mallory", "password": "known", "ttl": 3600},
    ],
    ids=lambda message: message["op"],
)
async def test_web_proxys_socket_answers_no_other_program(lab: Lab, quiet: Quiet, message: dict[str, Any]) -> None:
    """Not even one of the same user: the process at the other end is not the web proxy's."""
    path = lab.root / "agent-state" / "wwpf.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert await _say(lab, path, json.dumps(message)) == ""
    quiet.check()


async def test_control_socket_shows_and_does_nothing_more(lab: Lab, quiet: Quiet) -> None:
    path = lab.agent_socket
    assert path.stat().st_mode & 0o777 == 0o600
    shown = await _say(lab, path, "GET /status HTTP/1.0\r\n\r\n")
    assert "200 OK" in shown
    for secret in (IMPI, USER_NUMBER.lstrip("+"), "password", "secret"):
        assert secret not in shown
    for attempt in ("POST /status", "POST /dial", "GET /", "DELETE /status", "GET /../ue.toml"):
        refused = await _say(lab, path, f"{attempt} HTTP/1.0\r\n\r\n")
        assert re.search(r"HTTP/1\.\d 40[45]", refused), refused
    quiet.check()


async def test_another_user_reaches_no_unix_socket(lab: Lab, other_user: int) -> None:
    lab.root.chmod(0o711)  # the lab's folder is not what keeps him out
    try:
        for path in (lab.agent_socket, lab.root / "agent-state" / "wwpf.sock"):
            with pytest.raises(LabError, match="PermissionError"):
                await _say(lab, path, "GET /status HTTP/1.0\r\n\r\n", other_user)
    finally:
        lab.root.chmod(0o700)


# ---- TURN ---------------------------------------------------------------------------------------------------------


class TurnClient:
    """A TURN client over UDP on one of the lab's hosts."""

    def __init__(self, host: Host, server: tuple[str, int] = TURN_SERVER) -> None:
        self.sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server = server
        self._ids = itertools.count(1)
        self._nonce = self._realm = ""

    async def exchange(self, message: Message, within: float = 5.0, **protection: Any) -> Message:
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(self.sock, message.encode(**protection), self._server)
        async with asyncio.timeout(within):
            return parse_message(await loop.sock_recv(self.sock, 2048))

    async def bind(self, within: float = 5.0) -> Message:
        return await self.exchange(request(Method.BINDING, self._tid()), within)

    async def call(self, method: int, credential: tuple[str, str] | None, *fields: a.Field) -> Message:
        """Send a request, authenticated as RFC 8489 9.2 has it."""
        plain = request(method, self._tid(), fields)
        if credential is None:
            return await self.exchange(plain)
        if not self._nonce:
            challenge = await self.exchange(request(Method.ALLOCATE, self._tid(), [a.REQUESTED_TRANSPORT(17)]))
            self._nonce, self._realm = challenge.get(a.NONCE) or "", challenge.get(a.REALM) or ""
        user, password = credential
        known = [a.USERNAME(user), a.REALM(self._realm), a.NONCE(self._nonce)]
        key = long_term_key(1, user, self._realm, Secret(password))
        return await self.exchange(request(method, self._tid(), [*fields, *known]), sha1=key)

    async def allocate(self, credential: tuple[str, str] | None) -> Message:
        return await self.call(Method.ALLOCATE, credential, a.REQUESTED_TRANSPORT(17))

    async def release(self, credential: tuple[str, str]) -> None:
        assert (await self.call(Method.REFRESH, credential, a.LIFETIME(0))).message_class is MessageClass.SUCCESS

    def _tid(self) -> bytes:
        return next(self._ids).to_bytes(12)


def _error(message: Message) -> int:
    assert message.message_class is MessageClass.ERROR
    found = message.get(a.ERROR_CODE)
    assert found is not None
    return found.code


@pytest_asyncio.fixture(loop_scope="session")
async def turn(lab: Lab) -> AsyncIterator[TurnClient]:
    """A program on the handset that speaks to the TURN proxy."""
    client = TurnClient(lab.net.handset)
    yield client
    client.sock.close()


async def _credential(page: PhonePage) -> tuple[str, str]:
    """The credential that the operator has given the page."""
    found = await page.page.evaluate("fetch('/api/turn').then(answer => answer.json())")
    return found["username"], found["password"]


async def test_turn_without_credential(turn: TurnClient) -> None:
    assert _error(await turn.allocate(None)) == 401
    assert _error(await turn.call(Method.REFRESH, None)) in (401, 437)


@pytest.mark.parametrize("user", ["", "web", "4102444800:web", IMPI, "mallory"])
async def test_turn_with_a_guessed_credential(turn: TurnClient, user: str) -> None:
    """Neither a free choice nor the form of the operator's own names opens it."""
    assert _error(await turn.allocate((user, "guessed"))) == 401


async def test_turn_with_the_pages_name_and_a_guessed_password(turn: TurnClient, phone_page: PhonePage) -> None:
    user, _ = await _credential(phone_page)
    assert _error(await turn.allocate((user, "guessed"))) == 401


FOREIGN = [
    *(OPERATOR_PORTAL, OTHER_HOST, "203.0.113.1", "203.0.113.254", HANDSET_WAN, "198.51.100.7"),
    *(P_CSCF, HANDSET_IMS, PHONE_IMS, "10.46.0.1", HANDSET_TURN),
    *("127.0.0.1", "127.0.0.53", "0.0.0.0", "192.168.1.1", "169.254.169.254", "224.0.0.1", "255.255.255.255"),
    "192.0.2.1",
]


async def _reach(turn: TurnClient, credential: tuple[str, str]) -> list[str]:
    """Which of the foreign peers the TURN proxy lets a client reach."""
    reached = []
    for peer in FOREIGN:
        permission = await turn.call(Method.CREATE_PERMISSION, credential, a.XOR_PEER_ADDRESS((peer, 0)))
        channel = await turn.call(
            Method.CHANNEL_BIND, credential, a.CHANNEL_NUMBER(0x4001), a.XOR_PEER_ADDRESS((peer, 5060))
        )
        if not _error(permission) == _error(channel) == 403:
            reached.append(peer)
    return reached


async def test_pages_own_credential_reaches_no_foreign_peer(turn: TurnClient, phone_page: PhonePage) -> None:
    """Neither LAN nor loopback nor IMS nor internet: the TURN proxy is no way through the device."""
    credential = await _credential(phone_page)
    assert (await turn.allocate(credential)).message_class is MessageClass.SUCCESS
    assert await _reach(turn, credential) == []
    await turn.release(credential)


async def test_not_even_during_a_call(lab: Lab, turn: TurnClient, phone_page: PhonePage) -> None:
    """The phone's own media address is not reached from the page's side either: only the RMF's is."""
    credential = await _credential(phone_page)
    quiet = Quiet(lab)
    await phone_page.dial(PHONE_NUMBER)
    await phone_page.until("call", "talking")
    with pytest.raises(AssertionError):
        quiet.check()  # so it does notice a call
    assert (await turn.allocate(credential)).message_class is MessageClass.SUCCESS
    assert await _reach(turn, credential) == []
    await turn.release(credential)
    await phone_page.press("hangup")
    await phone_page.until("call", "ended", "idle")


# ---- from the network -----------------------------------------------------------------------------------------------


@pytest.fixture
def route(lab: Lab) -> Any:
    """The network side tries hard: it sends even the TURN proxy's address to the handset."""
    lab.net.operator.run("ip", "route", "add", HANDSET_TURN, "via", HANDSET_WAN)
    yield
    lab.net.operator.run("ip", "route", "delete", HANDSET_TURN)


async def _connects(host: Host, address: tuple[str, int]) -> bool:
    sock = host.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(1.5):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except (OSError, TimeoutError):
        return False
    finally:
        sock.close()
    return True


async def _answers(host: Host, address: tuple[str, int], datagram: bytes) -> bool:
    sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, address)
        async with asyncio.timeout(1.5):
            await loop.sock_sendall(sock, datagram)
            return bool(await loop.sock_recv(sock, 2048))
    except (OSError, TimeoutError):
        return False
    finally:
        sock.close()


STUN = request(Method.BINDING, bytes(12)).encode()
QUERY = bytes.fromhex("1234 0100 0001 0000 0000 0000") + b"\4turn\3ims\7example\0\0\1\0\1"


async def test_network_reaches_no_socket_of_the_agent(lab: Lab, sif: int, route: None) -> None:
    """S7-TURN, S7-DNS, S7-WWPF, S7-SIF: the only ports that a network sees are those of IMS."""
    handset, outside = lab.net.handset, lab.net.operator
    ports = [3478, 8080, 8081, 53, sif]
    inside = [(HANDSET_TURN, 3478), *(("127.0.0.1", port) for port in (8080, 8081, 53, sif))]
    assert all(await asyncio.gather(*(_connects(handset, address) for address in inside)))
    assert await _answers(handset, TURN_SERVER, STUN)
    assert await _answers(handset, ("127.0.0.1", 53), QUERY)
    addresses = (HANDSET_WAN, HANDSET_IMS, HANDSET_TURN)
    tried = [(address, port) for address in addresses for port in ports]
    found = await asyncio.gather(*(_connects(outside, address) for address in tried))
    assert [address for address, connected in zip(tried, found, strict=True) if connected] == []
    asked = [(address, port, datagram) for address in addresses for port, datagram in ((3478, STUN), (53, QUERY))]
    heard = await asyncio.gather(*(_answers(outside, (address, port), data) for address, port, data in asked))
    assert [what[:2] for what, answered in zip(asked, heard, strict=True) if answered] == []


async def test_agent_listens_where_it_says_and_nowhere_else(lab: Lab, sif: int) -> None:
    agent = psutil.Process(lab.processes["agent"].pid)
    ours = [f"pid={process.pid}," for process in (agent, *agent.children(recursive=True))]
    tcp = {at for at, who in _listening(lab).items() if any(pid in who for pid in ours)}
    udp = {at for at, who in _listening(lab, "u").items() if any(pid in who for pid in ours)}
    local = {("127.0.0.1", port) for port in (53, 8080, 8081, sif)}
    gm = (await lab.agent_status())["gm_security"]["sets"]
    # "port-c->port-s of the P-CSCF, its port-c->port-s"
    clients = {(HANDSET_IMS, int(each["ports"].split("->")[0])) for each in gm}
    servers = {(HANDSET_IMS, int(each["ports"].split("->")[-1])) for each in gm}
    assert servers
    assert tcp == {*local, *servers, TURN_SERVER, (HANDSET_IMS, 5060)}
    assert udp == {("127.0.0.1", 53), *clients, *servers, TURN_SERVER, (HANDSET_IMS, 5060)}


async def test_only_the_p_cscf_makes_the_page_ring(lab: Lab, phone_page: PhonePage) -> None:
    """A stranger on the access sends an INVITE straight to Gm: it is dropped, the page stays quiet."""
    quiet = Quiet(lab)
    lines = [
        f"INVITE sip:{USER_NUMBER}@{HANDSET_IMS}:5060 SIP/2.0",
        f"Via: SIP/2.0/UDP {PHONE_IMS}:5999;branch=z9hG4bKattack",
        "From: <sip:mallory@ims.example>;tag=1",
        f"To: <sip:{USER_NUMBER}@{DOMAIN}>",
        "Call-ID: attack",
        "CSeq: 1 INVITE",
        f"Contact: <sip:mallory@{PHONE_IMS}:5999>",
        "Max-Forwards: 70",
        "Content-Length: 0",
    ]
    invite = "".join(f"{line}\r\n" for line in (*lines, ""))
    assert not await _answers(lab.net.phone, (HANDSET_IMS, 5060), invite.encode())
    assert await phone_page.data("call") in ("", "idle")
    quiet.check()


# ---- another page in the same browser ---------------------------------------------------------------------------

FETCH = """([url, mode]) => fetch(url, { credentials: 'include', mode })
  .then(async answer => `${answer.type} ${answer.status} ${await answer.text()}`, error => error.name)"""
SOCKET = """([url, protocol]) => new Promise(done => {
  const socket = new WebSocket(url, protocol);
  socket.onopen = () => done('open');
  socket.onclose = event => done(`closed ${event.code}`);
})"""
GATHER = """async server => {
  const connection = new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: 'relay' });
  const candidates = [], errors = [];
  connection.onicecandidate = ({ candidate }) => candidate?.candidate && candidates.push(candidate.candidate);
  connection.onicecandidateerror = ({ errorCode }) => errors.push(errorCode);
  const complete = new Promise(done => {
    connection.onicegatheringstatechange = () => connection.iceGatheringState === 'complete' && done();
  });
  connection.createDataChannel('x');
  await connection.setLocalDescription();
  await complete;
  connection.close();
  return { candidates, errors };
}"""
FRAME = """url => new Promise(done => {
  const frame = document.createElement('iframe');
  frame.onload = () => {
    try { done(`same origin: ${frame.contentWindow.location.href}`); } catch (error) { done(error.name); }
  };
  frame.src = url;
  document.body.append(frame);
})"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def help_host(lab: Lab) -> AsyncIterator[None]:
    """Another host of the operator's, below the same domain, which is not the portal."""
    lab.net.operator.run("ip", "address", "add", f"{HELP_ADDRESS}/24", "dev", "wan0")
    await lab.start_web_host("help", HELP_ADDRESS, *lab.operator_ca.server(HELP))
    yield
    await lab.stop_one("help")
    lab.net.operator.run("ip", "address", "delete", f"{HELP_ADDRESS}/24", "dev", "wan0")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def victim(browser: Browser) -> PhonePage:
    """The operator's page, open and logged in."""
    page = PhonePage(await browser.new_page())
    await page.open(PORTAL_URL)
    await page.until("line", "ready")
    return page


@pytest_asyncio.fixture(
    scope="module", loop_scope="session", params=[OTHER_URL, f"https://{HELP}/"], ids=["foreign", "subdomain"]
)
async def attacker(request: Any, help_host: None, victim: PhonePage, browser: Browser) -> AsyncIterator[PhonePage]:
    """A page in the same browser as the victim's; the test is its script."""
    page = await browser.new_page()
    await page.goto(request.param)
    yield PhonePage(page)
    await page.close()


async def test_page_reads_nothing_of_the_portals(lab: Lab, attacker: PhonePage) -> None:
    quiet = Quiet(lab)
    for path in ("api/session", "api/turn", ""):
        assert await attacker.page.evaluate(FETCH, [PORTAL_URL + path, "cors"]) == "TypeError"
        opaque = await attacker.page.evaluate(FETCH, [PORTAL_URL + path, "no-cors"])
        assert opaque in ("opaque 0 ", "TypeError")
    quiet.check()


async def test_page_cannot_log_out_or_in(lab: Lab, attacker: PhonePage, victim: PhonePage) -> None:
    """A form or a script elsewhere does not end the page's session either."""
    post = "url => fetch(url, { method: 'POST', credentials: 'include', mode: 'no-cors' }).then(() => 0, () => 0)"
    await attacker.page.evaluate(post, PORTAL_URL + "api/logout")
    assert await victim.page.evaluate("fetch('/api/session').then(answer => answer.status)") == 200


async def test_page_opens_no_websocket_to_the_phone(lab: Lab, attacker: PhonePage, sif: int) -> None:
    quiet = Quiet(lab)
    pages = (await lab.agent_status())["pages"]
    for url in (f"wss://{WEBSOCKET}/sip", f"ws://127.0.0.1:{sif}/sip", f"wss://{PORTAL}/sip"):
        assert await attacker.page.evaluate(SOCKET, [url, "sip"]) == "closed 1006", url
    assert (await lab.agent_status())["pages"] == pages
    quiet.check()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_page_gets_no_relay(lab: Lab, attacker: PhonePage, transport: str) -> None:
    before = (await lab.agent_status())["turn"]["allocations"]
    server = {"urls": f"turn:{TURN}:3478?transport={transport}", "username": "4102444800:web", "credential": "guessed"}
    found = await attacker.page.evaluate(GATHER, server)
    assert found["candidates"] == []
    assert 401 in found["errors"]
    assert (await lab.agent_status())["turn"]["allocations"] == before


async def test_page_cannot_frame_the_portal(lab: Lab, attacker: PhonePage) -> None:
    """Clickjacking: neither shown nor logged in within another page."""
    quiet = Quiet(lab)
    refused = asyncio.Event()
    await attacker.on_console(lambda text: refused.set() if "frame-ancestors" in text else None)
    assert await attacker.page.evaluate(FRAME, PORTAL_URL) == "SecurityError"
    # Browser and driver are two processes: frame and console are told of the refusal a moment after the script is.
    [framed] = [frame for frame in attacker.page.frames if frame.parent_frame is not None]
    await framed.wait_for_url(lambda url: url != "", wait_until="commit", timeout=10_000)
    assert framed.url == "chrome-error://chromewebdata/"
    async with asyncio.timeout(10.0):
        await refused.wait()
    quiet.check()
