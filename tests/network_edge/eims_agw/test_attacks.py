"""Attacks on the gateway from sockets that are not the peers' [R-SEC]: a running call goes on, nothing grows."""

import asyncio
import gc
import ipaddress
import socket
import struct
import time
import tracemalloc

import pytest
from aioice import stun

from imskit.media.events import Step
from imskit.media.plane import Source
from imskit.sdp.attributes import Candidate
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.profile import PCMA
from imskit.sdp.sdes import Suite
from network_edge.eims_agw.call_media import Network
from network_edge.eims_agw.engine.dialog import Side
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_IMS_SDES,
    TOWARDS_WEB,
    AnswerRequest,
    CandidatesRequest,
    GatewayError,
    OfferRequest,
)

TOLD_ELSEWHERE = Network("127.0.0.1", range(30000, 39998), "198.51.100.7")
RTP = struct.pack("!BBHII", 0x80, 8, 1, 160, 0xDEADBEEF) + b"\xd5" * 160


class Attacker:
    """A socket of nobody's, on an address of its own."""

    def __init__(self, host: str = "127.0.0.9") -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind((host, 0))

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        try:
            self.sock.sendto(data, to)
        except BlockingIOError:
            pass

    def answers(self) -> int:
        """Datagrams that came back since the last time."""
        count = 0
        while True:
            try:
                self.sock.recv(2048)
            except BlockingIOError:
                return count
            count += 1


@pytest.fixture
def attacker():
    made = Attacker()
    yield made
    made.sock.close()


def media_of(gateway):
    return gateway._calls["call"][0].media


def port_of(description):
    return ("127.0.0.1", description.media[0].port)


async def settled(gateway):
    """Return when the plane has read all that lies in the sockets: something too short to be RTP comes out last."""
    media = media_of(gateway)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.8", 0))
        for side in Side:
            short = media.stats(side).dropped.get("malformed", 0)
            async with asyncio.timeout(10):
                while media.stats(side).dropped.get("malformed", 0) == short:
                    sock.sendto(b"\x80\x00", ("127.0.0.1", media.local_port(side)))  # a full buffer loses it
                    await asyncio.sleep(0.005)


def check(username: str, key: str) -> bytes:
    """A well-formed ICE check that nominates."""
    message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
    message.attributes["USERNAME"] = username
    message.attributes["PRIORITY"] = 1
    message.attributes["ICE-CONTROLLING"] = 1
    message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity(key.encode())
    return bytes(message)


async def connected(gateway) -> None:
    """Wait until the gateway, too, has its keys."""
    async with asyncio.timeout(10):
        while media_of(gateway)._web.state is not Step.DTLS_CONNECTED:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def flood(send, packets: int, until) -> None:
    """Send in bursts with the loop's turns between, until ``until`` is done."""
    sent = 0
    while not until.done():
        for _ in range(packets):
            send(sent)
            sent += 1
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("phase", ["before the answer", "before DTLS"])
async def test_rtp_before_dtls_is_never_bridged(bench, attacker, phase):
    """Plain RTP at the browser's port reaches nobody while there are no keys: counted and gone."""
    gateway, browser, phone = bench.gateway(), bench.browser(formats=(PCMA,)), bench.phone(formats=(PCMA,))
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    answer = phone.take_offer(towards_ims)
    if phase == "before DTLS":
        await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
    web = ("127.0.0.1", media_of(gateway).local_port(Side.WEB))
    for _ in range(20):
        attacker.send(RTP, web)
        browser._socket.sendto(RTP, web)
    await settled(gateway)
    stats = media_of(gateway).stats(Side.WEB)
    assert stats.dropped["no-keys"] == 40 and stats.packets_received == 0
    assert media_of(gateway).stats(Side.IMS).packets_sent == 0 and phone.packets == []


async def test_plain_rtp_in_a_secured_call_is_dropped(bench, attacker):
    """With keys, too; from the browser's own address as from another."""
    gateway, browser, phone = bench.gateway(), bench.browser(formats=(PCMA,)), bench.phone(formats=(PCMA,))
    _, towards_web = await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    heard = len(phone.packets)
    for _ in range(20):
        attacker.send(RTP, port_of(towards_web))
        browser._socket.sendto(RTP, port_of(towards_web))
    await settled(gateway)
    assert media_of(gateway).stats(Side.WEB).dropped["authentication"] == 40 and len(phone.packets) == heard


@pytest.mark.parametrize(
    "kind,lite",
    [
        ("unknown ufrag", False),
        ("wrong password", False),
        ("no attributes", False),
        ("garbage", False),
        ("wrong password", True),
    ],
)
async def test_stun_flood(bench, attacker, kind, lite):
    """Speech goes on; hardly anything is answered; the pair stays; no state is kept of the sender."""
    gateway, browser, phone = bench.gateway(node={"ice_lite": lite}), bench.browser(), bench.phone()
    _, towards_web = await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    ufrag = media_of(gateway).web_endpoint.ice_ufrag
    packet = {
        "unknown ufrag": check("nobody:x", "x" * 24),
        "wrong password": check(f"{ufrag}:x", "x" * 24),
        "no attributes": bytes(stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)),
        "garbage": b"\0\1" + bytes(range(256)) * 4,
    }[kind]
    agent = media_of(gateway)._web._ice
    proven = set(agent._connection.validated)
    speech = asyncio.ensure_future(bench.speak(browser, phone))
    start = time.monotonic()
    await flood(lambda _: attacker.send(packet, port_of(towards_web)), 40, speech)
    await speech
    elapsed = time.monotonic() - start
    await settled(gateway)
    answered = attacker.answers()
    assert answered <= (250 + 110 * elapsed if kind == "wrong password" else 0)
    assert agent.dropped > 200 or kind == "garbage"
    assert agent._connection.validated == proven and len(agent._connection.remote_candidates) <= 2
    assert media_of(gateway).stats(Side.WEB).remote == browser._socket.getsockname()


async def test_a_peer_cannot_prove_addresses_without_end(bench):
    """A browser with the right password that checks from ever new ports: so many are taken, no more."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    _, towards_web = await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    local = media_of(gateway).web_endpoint
    packet = check(f"{local.ice_ufrag}:{browser.leg.local.ufrag}", local.ice_pwd)
    many = [Attacker("127.0.0.7") for _ in range(150)]
    try:
        for one in many:
            one.send(packet, port_of(towards_web))
        await settled(gateway)
        connection = media_of(gateway)._web._ice._connection
        assert 30 < len(connection.validated) <= 64 and len(connection.remote_candidates) <= 66
    finally:
        for one in many:
            one.sock.close()
    await bench.speak(browser, phone)


@pytest.mark.parametrize("denied", [False, True])
async def test_ice_checks_do_not_go_to_denied_networks(bench, attacker, denied):
    """A description names hosts inside (here 127.0.0.9): nothing goes there where it is denied."""
    node = {"denied": (ipaddress.ip_network("127.0.0.9/32"),)} if denied else {}
    gateway, browser, phone = bench.gateway(node=node), bench.browser(), bench.phone()
    victim = Candidate("9", 1, "udp", 2130706431, *attacker.sock.getsockname(), "host")
    offer = SessionDescription.parse(
        str(browser.offer()).replace("a=candidate", f"a=candidate:{victim}\r\na=candidate", 1)
    )
    towards_ims = await gateway.offer(OfferRequest("call", "web", offer, TOWARDS_IMS))
    answer = phone.take_offer(towards_ims)
    browser.take_answer(await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB)))
    local = browser.leg.local
    await gateway.candidates(CandidatesRequest("call", "web", local.ufrag, local.password.reveal(), (victim,)))
    await bench.speak(browser, phone)
    assert (attacker.answers() == 0) is denied


async def test_ice_checks_do_not_go_to_the_hosts_own_loopback(bench, attacker):
    """A gateway that is told as elsewhere believes no loopback address, neither written down nor as a source."""
    gateway, browser, phone = bench.gateway(node={"web": TOLD_ELSEWHERE}), bench.browser(), bench.phone()
    victim = Candidate("9", 1, "udp", 2130706431, *attacker.sock.getsockname(), "host")
    offer = SessionDescription.parse(
        str(browser.offer()).replace("a=candidate", f"a=candidate:{victim}\r\na=candidate", 1)
    )
    towards_ims = await gateway.offer(OfferRequest("call", "web", offer, TOWARDS_IMS))
    await gateway.answer(AnswerRequest("call", "web", "ims", phone.take_offer(towards_ims), TOWARDS_WEB))
    media = media_of(gateway)
    endpoint, agent = media.web_endpoint, media._web._ice
    attacker.send(
        check(f"{endpoint.ice_ufrag}:{browser.leg.local.ufrag}", endpoint.ice_pwd),
        ("127.0.0.1", media.local_port(Side.WEB)),
    )
    await settled(gateway)
    assert agent.dropped == 1 and agent._connection.remote_candidates == [] and not agent._connection.validated
    assert attacker.answers() == 0


@pytest.mark.parametrize("source", ["stranger", "the browser's own address"])
async def test_dtls_flood(bench, attacker, source):
    """ClientHellos of strangers are dropped unread; garbage from the peer's address does not end the association."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    _, towards_web = await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    await connected(gateway)  # before that anybody at the peer's address can break the handshake: nothing is proved yet
    send = attacker.send if source == "stranger" else browser._socket.sendto
    junk = [
        b"\x16\xfe\xfd" + bytes(8) + b"\x00\x40\x01" + bytes(63),  # a ClientHello of epoch 0
        b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28",  # a fatal alert in the clear
        b"\x17\xfe\xfd\x00\x01" + bytes(6) + b"\x00\x20" + bytes(32),
        bytes(range(20, 64)),
    ]
    speech = asyncio.ensure_future(bench.speak(browser, phone))
    await flood(lambda count: send(junk[count % 4], port_of(towards_web)), 20, speech)
    await speech
    await settled(gateway)
    assert bench.lost == []
    leg = media_of(gateway)._web
    assert leg.state is Step.DTLS_CONNECTED and len(leg._dtls._path._packets) <= 16
    if source == "stranger":
        assert leg.unproven > 100 and attacker.answers() == 0


async def test_dtls_before_ice_is_dropped(bench, attacker):
    """A stranger's handshake with its own certificate finds nobody: no address is believed before ICE."""
    gateway, browser = bench.gateway(), bench.browser()
    await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    web = ("127.0.0.1", media_of(gateway).local_port(Side.WEB))
    for _ in range(500):
        attacker.send(b"\x16\xfe\xfd" + bytes(80), web)
    await settled(gateway)
    leg = media_of(gateway)._web
    assert leg.unproven > 100 and len(leg._dtls._path._packets) == 0 and attacker.answers() == 0


@pytest.mark.parametrize(
    "source,host", [(Source.SAME_HOST, "127.0.0.9"), (Source.EXACT, "127.0.0.9"), (Source.EXACT, "127.0.0.1")]
)
async def test_rtp_of_another_source_on_the_ims_side(bench, source, host):
    """Strict source: what does not come from where IMS said reaches nobody, and moves nothing."""
    gateway = bench.gateway(node={"source": source})
    browser, phone = bench.browser(formats=(PCMA,)), bench.phone(formats=(PCMA,))
    towards_ims, _ = await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    stranger = Attacker(host)
    try:
        for _ in range(30):
            stranger.send(RTP, port_of(towards_ims))
        await settled(gateway)
        stats = media_of(gateway).stats(Side.IMS)
        assert stats.dropped["source"] == 30 and stats.remote == phone.leg.rtp_address and browser.packets == []
        await bench.speak(browser, phone)
        assert stranger.answers() == 0
    finally:
        stranger.sock.close()


async def test_the_first_source_of_a_host_is_the_only_one(bench):
    """Symmetric RTP: one port of the phone's host is believed; who comes second, on any port, is not."""
    gateway, browser, phone = bench.gateway(), bench.browser(formats=(PCMA,)), bench.phone(formats=(PCMA,))
    towards_ims, _ = await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    first, second = Attacker("127.0.0.1"), Attacker("127.0.0.1")
    try:
        for one in (first, second, second):
            one.send(RTP, port_of(towards_ims))
        await settled(gateway)
        stats = media_of(gateway).stats(Side.IMS)
        assert stats.dropped["source"] == 2 and stats.remote == first.sock.getsockname()
    finally:
        first.sock.close()
        second.sock.close()


async def test_forged_rtp_does_not_pass_sdes(bench, attacker):
    """Where IMS has SRTP its tag decides, not the address: spoofing the source gains nothing."""
    gateway, browser, phone = bench.gateway(), bench.browser(formats=(PCMA,)), bench.phone(suites=tuple(Suite))
    towards_ims, _ = await bench.from_browser(gateway, browser, phone, flags=TOWARDS_IMS_SDES)
    await browser.until(Step.DTLS_CONNECTED)
    for _ in range(20):
        attacker.send(RTP, port_of(towards_ims))
    phone.leg._sockets[0].sendto(RTP, port_of(towards_ims))
    await settled(gateway)
    stats = media_of(gateway).stats(Side.IMS)
    assert stats.dropped["authentication"] == 21 and stats.packets_received == 0 and browser.packets == []


async def test_floods_leave_no_memory_behind(bench, attacker):
    """STUN, DTLS, RTP and noise from thousands of forged messages: what Python holds afterwards is what it held."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    towards_ims, towards_web = await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    ufrag = media_of(gateway).web_endpoint.ice_ufrag

    async def attack(count: int) -> None:
        for number in range(count):
            attacker.send(check(f"{ufrag}:{number}", "x" * 24), port_of(towards_web))
            attacker.send(b"\x16\xfe\xfd" + bytes(8) + struct.pack("!I", number) * 20, port_of(towards_web))
            for to in (towards_web, towards_ims):
                attacker.send(RTP[:8] + struct.pack("!I", number) + RTP[12:], port_of(to))
            attacker.send(struct.pack("!I", number) * 8, port_of(towards_ims))
            if number % 20 == 0:
                await asyncio.sleep(0)
        await settled(gateway)
        attacker.answers()
        gc.collect()

    await attack(200)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await attack(1500)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000, f"{grown} octets more after 7500 packets"


def _bomb(kind: str, browser) -> str:
    """A browser's offer blown up to nearly 64 kB."""
    offer = str(browser.offer())
    audio = offer[offer.index("m=") :]
    if kind == "m-lines":
        return offer + "m=video 0 UDP/TLS/RTP/SAVPF 96\r\n" * 1900
    if kind == "accepted m-lines":
        return offer[: offer.index("m=")] + audio * 62
    if kind == "candidates":
        line = "a=candidate:1 1 udp 2130706431 10.%d.%d.1 9 typ host\r\n"
        return offer + "".join(line % divmod(number, 250) for number in range(1200))
    if kind == "payload types":
        return offer.replace("SAVPF", "SAVPF" + " 0 8" * 16000, 1)
    if kind == "attributes":
        return offer + "a=x\r\n" * 4000
    if kind == "rtpmaps":
        return offer + "".join(f"a=rtpmap:{number % 128} x/8000\r\n" for number in range(2500))
    if kind == "fmtp":
        return offer + "a=fmtp:96 " + "0-255," * 10000 + "\r\n"
    if kind == "many fmtp":
        return offer + "a=fmtp:111 a=b;c=d;\r\n" * 2800
    if kind == "fingerprints":
        return offer + ("a=fingerprint:sha-256 " + ":".join(["AA"] * 32) + "\r\n") * 500
    if kind == "session lines":
        return offer.replace("t=0 0\r\n", "t=0 0\r\n" + "a=x\r\n" * 4000)
    return offer + "a=" + "x" * (65500 - len(offer)) + "\r\n"


_BOMBS = (
    "m-lines", "accepted m-lines", "candidates", "payload types", "attributes", "rtpmaps", "fmtp", "many fmtp",
    "fingerprints", "session lines", "one long line",
)  # fmt: skip


@pytest.mark.parametrize("kind", _BOMBS)
async def test_sdp_bombs(bench, kind):
    """Up to 64 kB in any shape: refused (or taken, where it is only long) within a moment, and no port is kept."""
    gateway, browser = bench.gateway(), bench.browser()
    text = _bomb(kind, browser)
    assert len(text) > 9000
    start = time.process_time()
    try:
        description = SessionDescription.parse(text)
        await gateway.offer(OfferRequest("call", "web", description, TOWARDS_IMS))
    except (SdpError, GatewayError):
        assert gateway.sessions == 0
    else:
        assert gateway.sessions == 1 and kind not in ("m-lines", "candidates", "attributes", "session lines")
    assert time.process_time() - start < 3.0


async def test_an_answer_of_ims_that_is_a_bomb(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    answer = str(phone.take_offer(towards_ims))
    start = time.process_time()
    for text in (
        answer + "a=crypto:1 x y\r\n" * 3000,
        answer + "m=audio 9 RTP/AVP 0\r\n" * 60,
        answer + "a=curr:x\r\n" * 3000,
    ):
        try:
            await gateway.answer(AnswerRequest("call", "web", "ims", SessionDescription.parse(text), TOWARDS_WEB))
        except (SdpError, GatewayError):
            pass
    with pytest.raises(SdpError):
        SessionDescription.parse(answer + "a=" + "x" * 66000)
    assert time.process_time() - start < 3.0


async def test_late_candidates_are_bounded(bench):
    """Whoever controls the browser may send candidates again and again: the agent takes so many."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    local = browser.leg.local
    kind = type(local.candidates[0])
    for number in range(20):
        many = tuple(kind(f"{n}", 1, "udp", n + 1, f"127.1.{number}.{n}", 9, "host") for n in range(100))
        await gateway.candidates(CandidatesRequest("call", "web", local.ufrag, local.password.reveal(), many))
        await asyncio.sleep(0)
    assert len(media_of(gateway)._web._ice._connection.remote_candidates) <= 50
    await bench.speak(browser, phone)
