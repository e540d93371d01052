"""ICE and DTLS on a wire of our own, and what the adapter uses of aioice and aiortc.

If a test of private names fails after an upgrade, ``imskit.media.transports`` has to follow.
"""

from __future__ import annotations

import asyncio
import inspect

import pytest
from aioice import ice, stun
from aiortc import rtcdtlstransport
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.media.plane import Address, SrtpProfile
from imskit.media.transports import Certificate, DtlsAssociation, DtlsError, IceAgent, _DtlsPath, _DtlsTransport
from imskit.sdp.attributes import Fingerprint
from imskit.secrets import Secret

ADDRESS = ("192.0.2.7", 4000)


async def test_private_names_of_aioice() -> None:
    connection = ice.Connection(ice_controlling=True)
    for name in (
        "_protocols",
        "_local_candidates",
        "_local_candidates_start",
        "_local_candidates_end",
        "_remote_candidates",
        "_early_checks",
        "_early_checks_done",
        "_check_list",
        "_check_list_done",
        "_check_list_state",
        "_nominated",
        "_query_consent_task",
        "_pair_remote_candidate",
        "_valid_username",
    ):
        assert hasattr(connection, name), name
    assert list(inspect.signature(ice.Connection.check_incoming).parameters) == ["self", "message", "addr", "protocol"]
    assert list(inspect.signature(ice.Connection.request_received).parameters) == [
        "self",
        "message",
        "addr",
        "protocol",
    ]
    assert list(inspect.signature(ice.StunProtocol.request).parameters) == [
        "self",
        "request",
        "addr",
        "integrity_key",
        "retransmissions",
    ]
    assert inspect.iscoroutinefunction(ice.Connection.query_consent)
    assert ice.ICE_COMPLETED == 1


def test_private_names_of_aiortc() -> None:
    transport = _DtlsTransport(_DtlsPath(lambda data, address: None), Certificate())
    for name in ("_set_role", "_role", "_set_state", "_state", "_task", "_ssl", "_validate_peer_identity"):
        assert hasattr(transport, name), name
    assert {profile.openssl_profile for profile in rtcdtlstransport.SRTP_PROFILES} <= {
        b"SRTP_AEAD_AES_256_GCM",
        b"SRTP_AEAD_AES_128_GCM",
        b"SRTP_AES128_CM_SHA1_80",
    }


class Link:
    """Two DTLS associations joined by a wire that may lose packets."""

    def __init__(self, *lost: int, junk: bytes = b"") -> None:
        """``junk`` comes forty times after each packet, from the same address."""
        self.sent = 0
        self._junk = junk
        self._lost = lost
        self.certificates = Certificate(), Certificate()
        self.ends = (
            DtlsAssociation(self.certificates[0], lambda data, address: self._carry(1, data)),
            DtlsAssociation(self.certificates[1], lambda data, address: self._carry(0, data)),
        )
        for end in self.ends:
            end.selected(ADDRESS)

    def _carry(self, to: int, data: bytes) -> None:
        self.sent += 1
        if self.sent not in self._lost:
            self.ends[to].datagram_received(data, ADDRESS)
        if self._junk:
            for _ in range(40):
                self.ends[to].datagram_received(self._junk, ADDRESS)

    async def connect(self) -> tuple[object, object]:
        one, two = await asyncio.gather(
            self.ends[0].handshake([self.certificates[1].fingerprint], client=True),
            self.ends[1].handshake([self.certificates[0].fingerprint], client=False),
        )
        assert one.profile is two.profile and one.profile in SrtpProfile
        assert one.send == two.receive and one.receive == two.send
        assert len(one.send.reveal()) == one.profile.key_length + one.profile.salt_length
        assert one.send != one.receive
        return one, two


@pytest.mark.parametrize("lost", [(), (1,), (2,), (3,)])
async def test_both_ends_get_the_same_keys_even_when_a_flight_is_lost(lost: tuple[int, ...]) -> None:
    """RFC 5764 4.2: what one sends with is what the other receives with; DTLS repeats lost flights."""
    link = Link(*lost)
    await asyncio.wait_for(link.connect(), 10)
    for end in link.ends:
        await end.close()


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16",
        b"\x16\xfe\xfd" + bytes(9),
        b"\x16\x03\x03" + bytes(40),
        b"\x16\xfe\xfd" + bytes(8) + b"\xff\xff" + bytes(64),
    ],
    ids=["an octet", "half a header", "another version", "a record longer than its packet"],
)
async def test_a_flood_of_what_is_no_record_does_not_push_a_flight_out(junk: bytes) -> None:
    link = Link(junk=junk)
    await asyncio.wait_for(link.connect(), 10)
    for end in link.ends:
        await end.close()


async def test_of_a_flood_of_records_the_first_stay() -> None:
    """A handshake's packet that came before the flood is read; so many are kept, no more."""
    path = _DtlsPath(lambda data, address: None)
    for number in range(1000):
        path.deliver(number.to_bytes(2, "big"), ADDRESS)
    assert [await path._recv() for _ in range(16)] == [number.to_bytes(2, "big") for number in range(16)]
    assert not path._packets


async def test_close_is_seen_by_the_peer() -> None:
    link = Link()
    await link.connect()
    await link.ends[0].close()
    await asyncio.wait_for(link.ends[1].closed(), 5)
    await link.ends[1].close()


async def test_without_a_fingerprint_there_is_no_handshake() -> None:
    association = DtlsAssociation(Certificate(), lambda data, address: None)
    with pytest.raises(DtlsError, match="no fingerprint"):
        await association.handshake([], client=True)


def test_certificate_is_ecdsa_with_a_sha_256_fingerprint() -> None:
    """RFC 8827 6.5."""
    one, two = Certificate(), Certificate()
    assert isinstance(one.fingerprint, Fingerprint) and one.fingerprint.algorithm == "sha-256"
    assert len(one.fingerprint.value.split(":")) == 32
    assert one.fingerprint != two.fingerprint


async def test_malformed_stun_does_not_escape() -> None:
    """aioice unpacks attributes before it authenticates; whatever it trips over is dropped."""
    sent: list[tuple[bytes, Address]] = []
    agent = IceAgent(
        [ADDRESS],
        lambda data, address: sent.append((data, address)),
        ufrag="ours",
        password=Secret("p" * 24),
        controlling=False,
        wait_for_peer=True,
        selected=lambda address: None,
    )
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = "ours:theirs"
    request.attributes["PRIORITY"] = 1
    request.attributes["ICE-CONTROLLING"] = 1
    request.add_message_integrity(b"p" * 24)
    whole = bytes(request)
    for length in range(len(whole)):
        agent.datagram_received(whole[:length], ("192.0.2.9", 1))
        agent.is_for(whole[:length])
    for position in range(len(whole) - 8):  # the FINGERPRINT at the end authenticates nothing
        spoilt = bytearray(whole)
        spoilt[position] ^= 0xFF
        agent.datagram_received(bytes(spoilt), ("192.0.2.9", 1))
        agent.is_for(bytes(spoilt))
    assert not agent.validated(("192.0.2.9", 1))
    sent.clear()
    agent.datagram_received(whole, ("192.0.2.9", 1))
    assert agent.validated(("192.0.2.9", 1))
    (answer,) = sent
    parsed = stun.parse_message(answer[0])
    assert parsed.message_class == stun.Class.RESPONSE and parsed.check_message_integrity(b"p" * 24)
    without_priority = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    without_priority.attributes["USERNAME"] = "ours:theirs"
    without_priority.add_message_integrity(b"p" * 24)
    agent.datagram_received(bytes(without_priority), ("192.0.2.10", 1))
    await agent.close()


def _agent(sent: list[tuple[bytes, Address]], *, lite: bool) -> IceAgent:
    return IceAgent(
        [ADDRESS],
        lambda data, address: sent.append((data, address)),
        ufrag="ours",
        password=Secret("p" * 24),
        controlling=False,
        wait_for_peer=True,
        selected=lambda address: None,
        lite=lite,
    )


def _check(username: str, password: str) -> bytes:
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["PRIORITY"] = 1  # USERNAME need not come first
    request.attributes["USERNAME"] = username
    request.attributes["ICE-CONTROLLING"] = 1
    request.add_message_integrity(password.encode())
    return bytes(request)


@pytest.mark.parametrize("lite", [False, True])
async def test_floods_are_rationed(lite: bool) -> None:
    """Other user fragments are dropped; wrong passwords get so many answers; a proven address is never rationed."""
    sent: list[tuple[bytes, Address]] = []
    agent = _agent(sent, lite=lite)
    for name in ("", "our", "other:theirs", "ours", "xours:theirs"):
        agent.datagram_received(_check(name, "p" * 24), ADDRESS)
    assert sent == [] and agent.dropped == 5
    agent.datagram_received(_check("ours:theirs", "p" * 24), ("192.0.2.99", 1))
    wrong = _check("ours:theirs", "w" * 24)
    for port in range(2000):
        agent.datagram_received(wrong, ("192.0.2.66", 1024 + port))
    assert 100 < len(sent) < 1000 and agent.dropped > 1000
    before = len(sent)
    for _ in range(300):
        agent.datagram_received(_check("ours:theirs", "p" * 24), ("192.0.2.99", 1))
    assert (
        len(sent) == before + 300 and agent.validated(("192.0.2.99", 1)) and not agent.validated(("192.0.2.66", 1024))
    )
    await agent.close()


@settings(deadline=None, max_examples=50)
@given(at=st.integers(0, 80), noise=st.binary(max_size=60))
def test_noise_raises_nothing(at: int, noise: bytes) -> None:
    async def feed() -> None:
        agent = _agent([], lite=True)
        whole = _check("ours:theirs", "p" * 24)
        for data in (whole[:at] + noise, whole[:at], noise, whole[:at] + noise + whole[at + len(noise) :]):
            agent.datagram_received(data, ADDRESS)
        await agent.close()

    asyncio.run(feed())
