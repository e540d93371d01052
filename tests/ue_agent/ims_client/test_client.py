"""The IMS client on real sockets, through every fault of card and core [S7-IMS, S7-UICC, S7-AUTH]."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imskit.aka.challenge import AkaAlgorithm, Challenge
from imskit.aka.milenage import Milenage
from imskit.aka.sqn import SqnGenerator
from imskit.aka.vector import AuthenticationVector, Success
from imskit.ims import events as ims
from imskit.ims.registration import State
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.auth import Credentials
from ue_agent.wwpf.agent import AgentError

type At = Callable[[Any], str]

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
K, OPC = "465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf"
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    b"m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 AMR-WB/16000\r\n"
)


def silent(address: str = "127.0.0.1") -> tuple[socket.socket, str]:
    """A P-CSCF that never answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))
    return sock, f"{address}:{sock.getsockname()[1]}"


# ---- registration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("algorithm", ["AKAv1-MD5", "AKAv2-SHA-256"])
async def test_register_and_de_register(lab: Any, address: At, transport: str, algorithm: str) -> None:
    core = await lab.core(algorithms=[algorithm])
    client = await lab.start(address(core), transport=transport)
    await lab.registered()
    assert client.card_state == "SIM card with ISIM in use"
    assert client.public_identities == (f"sip:+15550100@{DOMAIN}", "tel:+15550100")
    (known,) = core.registrations()
    assert known["impi"] == f"001010000000000100@{DOMAIN}"
    await client.stop()
    assert core.registrations() == []
    assert client.status.state is State.OFF
    assert client.status.reason == "this device's agent was stopped"
    assert client.identities is None


async def test_the_p_cscf_that_the_card_names(lab: Any, address: At) -> None:
    core = await lab.core()
    lab.reader.insert(lab.card(pcscf=[core.gm[0][0]]))
    client = await lab.start(insert=False)
    # Its port is the usual one, where no core listens here: what counts is whom it asks.
    await lab.until(lambda: client.status.p_cscf is not None)
    assert client.status.p_cscf.address == (core.gm[0][0], 5060)


async def test_no_p_cscf_is_known(lab: Any) -> None:
    lab.reader.insert(lab.card(pcscf=["2001:db8::1"]))
    await lab.start("[2001:db8::1]:5060", insert=False)
    assert "no address of this IP version" in await lab.says("no P-CSCF was found")


@pytest.mark.parametrize("text", ["", "a b", "10.45.0.1:x", "10.45.0.1:99999", "[10.0.0.1]", "x:1:2"])
async def test_a_p_cscf_that_is_no_address(lab: Any, text: str) -> None:
    await lab.start(text)
    assert "is no address" in await lab.says("the P-CSCF")


async def test_the_instance_stays_the_same(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    first = (lab.state / "instance").read_text()
    assert first.startswith("urn:uuid:")
    await client.stop()
    await lab.start(address(core), insert=False)
    await lab.registered()
    assert (lab.state / "instance").read_text() == first


@pytest.mark.parametrize("content", [b"", b"no urn", b"\xff\xfe", b"urn:x:" + b"a" * 1000])
async def test_a_spoilt_instance_file_is_written_anew(lab: Any, address: At, content: bytes) -> None:
    (lab.state / "instance").write_bytes(content)
    core = await lab.core()
    await lab.start(address(core))
    await lab.registered()
    assert (lab.state / "instance").read_text().startswith("urn:uuid:")


async def test_a_state_folder_that_is_missing(lab: Any, address: At) -> None:
    core = await lab.core()
    lab.state = Path(lab.state) / "gone"
    await lab.start(address(core))
    await lab.says("state folder", "cannot be used")
    lab.state.mkdir()
    await lab.registered()


# ---- the card -------------------------------------------------------------------------------------------------


async def test_no_card_at_the_start(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core), insert=False)
    await lab.says("no card in")
    assert client.status.state is State.OFF
    client.handle(ims.Dial("c", "tel:+15550200", SDP))
    assert lab.outputs == [ims.Ended("c", None, "no card in in-process reader", True)]
    lab.reader.insert(lab.card())
    await lab.registered()


async def test_a_card_that_is_no_sim(lab: Any, address: At) -> None:
    class BankCard:
        def reset(self) -> None: ...

        def transmit(self, apdu: bytes) -> bytes:
            return b"\x6a\x82"

    core = await lab.core()
    lab.reader.insert(BankCard())
    await lab.start(address(core), insert=False)
    await lab.says("is no SIM card")
    lab.reader.remove()
    lab.reader.insert(lab.card())
    await lab.registered()


async def test_a_blocked_pin(lab: Any, address: At) -> None:
    core = await lab.core()
    lab.reader.insert(lab.card(pin=Secret("1234"), pin_tries=0))
    await lab.start(address(core), insert=False, pin="1234")
    await lab.says("PIN is blocked", "PUK")
    lab.reader.remove()
    lab.reader.insert(lab.card(pin=Secret("1234")))
    await lab.registered()


async def test_a_wrong_pin_costs_one_try(lab: Any, address: At) -> None:
    core = await lab.core()
    card = lab.card(pin=Secret("1234"))
    lab.reader.insert(card)
    await lab.start(address(core), insert=False, pin="9999")
    await lab.says("PIN is wrong", "not sent again")
    assert card.pin_tries_left == 2


async def test_the_card_of_another_network(lab: Any, address: At) -> None:
    core = await lab.core()
    lab.reader.insert(lab.card(k=Secret("00" * 16)))
    client = await lab.start(address(core), insert=False)
    await lab.says("gave up", "does not belong to this card's network")
    assert client.status.state is State.WAITING
    lab.reader.remove()
    await lab.says("SIM card was removed")
    lab.reader.insert(lab.card())
    await lab.registered()


async def test_a_card_that_the_core_does_not_know(lab: Any, address: At) -> None:
    core = await lab.core()
    lab.reader.insert(lab.card("0999"))
    await lab.start(address(core), insert=False)
    await lab.says("403", "no subscriber has this private identity")


async def test_the_card_is_pulled_and_put_back(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    lab.reader.remove()
    await lab.says("SIM card was removed")
    # The core wants the card for a de-registration too, as there is no security association (TS 24.229 5.4.1.2.1).
    assert client.status.state is State.OFF
    assert client.identities is None
    assert client.public_identities == ()
    lab.reader.insert(lab.card())
    await lab.registered()


async def test_the_card_is_pulled_in_the_middle_of_a_registration(lab: Any, address: At) -> None:
    core = await lab.core()

    class Pulled:
        """A card that is pulled when it is to authenticate."""

        def __init__(self) -> None:
            self.card = lab.card()

        def reset(self) -> None:
            self.card.reset()

        def transmit(self, apdu: bytes) -> bytes:
            if apdu[1] == 0x88:
                lab.reader.remove()
            return bytes(self.card.transmit(apdu))

    lab.reader.insert(Pulled())
    client = await lab.start(address(core), insert=False)
    await lab.says("SIM card was removed")
    assert client.status.state is State.OFF
    lab.reader.insert(lab.card())
    await lab.registered()


async def test_a_card_with_an_old_sequence_number_is_resynchronised(lab: Any, address: At) -> None:
    core = await lab.core()
    lab.reader.insert(lab.card(sqn=[i | (5000 << 5) for i in range(32)]))
    await lab.start(address(core), insert=False)
    await lab.registered()


async def test_the_card_access_is_closed(lab: Any, address: At) -> None:
    """The client ends by itself, without a busy loop."""
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    await lab.uicc.close()
    async with asyncio.timeout(5):
        await asyncio.wait([client._task])
    assert client.status.state is State.REGISTERED
    await client.stop()
    assert client.status.state is State.OFF


# ---- the core -------------------------------------------------------------------------------------------------


async def test_a_silent_p_cscf_and_back(lab: Any, address: At) -> None:
    quiet, where = silent()
    client = await lab.start(where)
    reason = await lab.says("does not answer")
    assert reason == f"the P-CSCF 127.0.0.1 port {where.rpartition(':')[2]} does not answer"
    assert client.status.state is State.WAITING
    assert client.status.retry_at is not None
    quiet.close()
    await lab.core(where)
    await lab.registered()


async def test_a_p_cscf_that_is_not_there_over_tcp(lab: Any, address: At) -> None:
    quiet, where = silent()
    await lab.start(where, transport="TCP")
    await lab.says("cannot be reached")
    quiet.close()
    await lab.core(where)
    await lab.registered()


async def test_the_second_of_two_p_cscfs(lab: Any, address: At) -> None:
    quiet, where = silent()
    core = await lab.core()
    client = await lab.start(where, address(core))
    await lab.registered()
    assert client.status.p_cscf.address == core.gm[0]
    assert any("trying the next P-CSCF" in sentence for sentence in lab.sentences)
    quiet.close()


async def test_the_core_is_restarted_and_a_call_finds_out(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    where = address(core)
    await core.close()
    again = await lab.core(where)
    client.handle(ims.Dial("c", "tel:+15550200", SDP))
    await lab.until(lambda: any(isinstance(each, ims.Ended) for each in lab.outputs))
    ended = next(each for each in lab.outputs if isinstance(each, ims.Ended))
    assert ended.status == 403
    await lab.until(lambda: client.status.state is not State.REGISTERED or again.registrations())
    await lab.registered()
    assert again.registrations(), "the new core knows the device (AUTS: its sequence numbers began anew)"


async def test_the_core_is_restarted_over_tcp(lab: Any, address: At) -> None:
    """The connection tells, without a call."""
    core = await lab.core()
    client = await lab.start(address(core), transport="TCP")
    await lab.registered()
    where = address(core)
    await core.close()
    await lab.until(lambda: client.status.state is not State.REGISTERED)
    again = await lab.core(where)
    await lab.registered()
    assert again.registrations()


async def test_the_network_de_registers(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    await lab.until(lambda: lab.notifications)
    core.deregister(f"001010000000000100@{DOMAIN}", "deactivated")
    await lab.says("the network asked to register again")
    lab.notifications = 0
    await lab.registered()
    assert core.registrations()
    await lab.until(lambda: lab.notifications)
    core.deregister(f"001010000000000100@{DOMAIN}", "rejected")
    await lab.says("the network ended the registration (rejected)")
    assert client.status.state is State.WAITING


async def test_the_gm_port_is_taken(lab: Any, address: At) -> None:
    core = await lab.core()
    port = lab.free_port()
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", port))
    await lab.start(address(core), port=port)
    reason = await lab.says("the IMS interface cannot be used")
    assert reason == f"the IMS interface cannot be used at 127.0.0.1 port {port}: Address already in use"
    taken.close()
    await lab.registered()


async def test_an_address_that_the_device_does_not_have(lab: Any, address: At) -> None:
    core = await lab.core()
    await lab.start(address(core), address="192.0.2.77")
    await lab.says("the IMS interface cannot be used at 192.0.2.77")


async def test_calls_end_when_the_card_is_pulled(lab: Any, address: At) -> None:
    """Also those whose end the network does not confirm any more."""
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    lab.outputs.clear()
    quiet, where = silent()
    client.handle(ims.Dial("c", f"sip:x@{where}", SDP))
    await core.close()
    lab.reader.remove()
    await lab.until(lambda: any(isinstance(each, ims.Ended) for each in lab.outputs))
    (ended,) = [each for each in lab.outputs if isinstance(each, ims.Ended)]
    assert ended.call == "c"
    quiet.close()


async def test_a_stranger_cannot_make_the_device_ring(lab: Any, address: At) -> None:
    """Only the P-CSCF may send requests.  (All loopback addresses count as one host: the engine's test is in ims.)"""
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    assert client._endpoint is not None
    engine = client._endpoint.ue
    assert engine._proxies == {"loopback"}


# ---- the web log-in ----------------------------------------------------------------------------------------


class Portal:
    """A web server with an authentication centre."""

    def __init__(self, k: str = K) -> None:
        self.milenage = Milenage(Secret(bytes.fromhex(k)), Secret(bytes.fromhex(OPC)))
        self.numbers = SqnGenerator()

    def challenge(self, algorithm: str, *, sqn: int | None = None) -> tuple[str, AuthenticationVector]:
        number = self.numbers.next() if sqn is None else sqn
        vector = AuthenticationVector.generate(self.milenage, bytes(range(16)), number)
        nonce = Challenge(vector.rand, vector.autn).encode()
        return str(DigestChallenge.digest("portal.ims.example", nonce, algorithm=algorithm, qop=("auth",))), vector


@pytest.mark.parametrize("algorithm", ["AKAv1-MD5", "AKAv2-MD5", "AKAv2-SHA-256"])
async def test_a_web_challenge_is_answered(lab: Any, address: At, algorithm: str) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    header, vector = Portal().challenge(algorithm, sqn=1 << 20)
    answer = (await client.answer_web_challenge(header, "GET", "/login")).authorization
    credentials = Credentials.parse(answer)
    assert credentials.username == f"001010000000000100@{DOMAIN}"
    known = AkaAlgorithm.parse(algorithm)
    assert known is not None
    password = known.password(Success(vector.xres, vector.ck, vector.ik))
    assert digest.verify(credentials, password, "GET")
    for secret in (vector.xres, vector.ck, vector.ik):
        assert secret.reveal().hex() not in answer


async def test_a_web_challenge_out_of_sequence(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    header, _ = Portal().challenge("AKAv1-MD5", sqn=0)
    answer = await client.answer_web_challenge(header, "GET", "/")
    assert answer.resync
    assert Credentials.parse(answer.authorization).auts


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('Basic realm="x"', "not one for a SIM card"),
        ('Digest realm="x", nonce="abc", algorithm=MD5', "not one for a SIM card"),
        ('Digest realm="x", nonce="YWJj", algorithm=AKAv1-MD5', "cannot be read"),
        ('Digest realm="x", nonce="??", algorithm=AKAv1-MD5', "cannot be read"),
        ("Digest", "not one for a SIM card"),
        ("", "cannot be read"),
    ],
)
async def test_a_web_challenge_that_cannot_be_answered(lab: Any, address: At, header: str, words: str) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    with pytest.raises(AgentError, match=words):
        await client.answer_web_challenge(header, "GET", "/")


async def test_a_portal_with_another_key(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.registered()
    header, _ = Portal("11" * 16).challenge("AKAv1-MD5")
    with pytest.raises(AgentError, match="does not recognise the operator"):
        await client.answer_web_challenge(header, "GET", "/")


async def test_a_web_challenge_without_a_card(lab: Any, address: At) -> None:
    core = await lab.core()
    client = await lab.start(address(core), insert=False)
    await lab.says("no card in")
    header, _ = Portal().challenge("AKAv1-MD5")
    with pytest.raises(AgentError, match="no card in"):
        await client.answer_web_challenge(header, "GET", "/")
    lab.reader.insert(lab.card())
    await lab.registered()
    lab.reader.remove()
    with pytest.raises(AgentError, match=r"no card in|removed|pulled"):
        await client.answer_web_challenge(header, "GET", "/")


async def test_web_log_in_and_registration_at_the_same_time(lab: Any, address: At) -> None:
    """Both ask the card; their sequence numbers come from one array (TS 33.102 annex C.2.2)."""
    core = await lab.core()
    client = await lab.start(address(core))
    await lab.until(lambda: client.identities is not None)
    portal = Portal()
    for _ in range(1000):
        portal.numbers.next()
    headers = [portal.challenge("AKAv1-MD5")[0] for _ in range(5)]
    answers = await asyncio.gather(*(client.answer_web_challenge(header, "GET", "/") for header in headers))
    assert not any(answer.resync for answer in answers)
    await lab.registered()
