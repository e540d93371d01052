"""STUN messages: published vectors, hostile input, round trips (RFC 8489, 5769, 8656; S7-STUN)."""

from __future__ import annotations

import hmac

import pytest
from aioice import stun as aioice_stun
from hypothesis import given
from hypothesis import strategies as st

from imskit.secrets import Secret
from imskit.stun.wire import attributes as a
from imskit.stun.wire.errors import StunError
from imskit.stun.wire.keys import long_term_key, userhash
from imskit.stun.wire.message import Message, MessageClass, Method, is_stun, parse_message, request

# RFC 5769 2.1 to 2.4.
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RESPONSE_V4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RESPONSE_V6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
LONG_TERM = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e"
    "00060012e3839ee38388e383aae38383e382afe382b90000"
    "0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341"
    "0014000b6578616d706c652e6f726700"
    "00080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
# RFC 8489 appendix B.1, as printed.
SHA256_USERHASH = bytes.fromhex(
    "0001009c2112a44278ad3433c6ad72c029da412e"
    "001e00204a3cf38fef6992bda952c67804 17da0f24819415569e60b205c46e41407f1704".replace(" ", "")
    + "001500296f624d61744a6f7332414141"
    "43662f2f3439396b39353464364f4c33346f4c394653547679363473"
    "41000000"
    "0014000b6578616d706c652e6f726700"
    "001c0020e4686c8f0edeb59013e07090010a93efccbccc544c0a45d9f830aa6d6f735a01"
)
PASSWORD = Secret("VOkJxbRl1RmTxUk/WvJxBt")
MATRIX = "マトリックス"


def _short_term() -> Secret[bytes]:
    return Secret(PASSWORD.reveal().encode())


def test_rfc5769_request() -> None:
    message = parse_message(REQUEST)
    assert (message.message_class, message.method) == (MessageClass.REQUEST, Method.BINDING)
    assert message.get(a.SOFTWARE) == "STUN test client"
    assert message.get(a.PRIORITY) == 0x6E0001FF
    assert message.get(a.ICE_CONTROLLED) == 0x932FF9B151263B36
    assert message.get(a.USERNAME) == "evtj:h6vY"
    assert message.verify(_short_term())
    assert not message.verify(Secret(b"another"))


@pytest.mark.parametrize(
    ("data", "address"),
    [
        (RESPONSE_V4, ("192.0.2.1", 32853)),
        (RESPONSE_V6, ("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
)
def test_rfc5769_responses(data: bytes, address: tuple[str, int]) -> None:
    message = parse_message(data)
    assert message.message_class is MessageClass.SUCCESS
    assert message.get(a.XOR_MAPPED_ADDRESS) == address
    assert message.verify(_short_term())


def test_rfc5769_long_term_request() -> None:
    message = parse_message(LONG_TERM)
    assert message.get(a.USERNAME) == MATRIX
    assert message.get(a.NONCE) == "f//499k954d6OL34oL9FSTvy64sA"
    assert message.verify(long_term_key(1, MATRIX, "example.org", Secret("TheMatrIX")))


def test_rfc8489_sha256_and_userhash() -> None:
    """Appendix B.1: the key, the user hash and the HMAC are right; its length field counts the header as well."""
    key = long_term_key(2, MATRIX, "example.org", Secret("TheMatrIX"))
    published = SHA256_USERHASH[-32:]
    assert hmac.digest(key.reveal(), SHA256_USERHASH[:-36], "sha256") == published
    with pytest.raises(StunError, match="length 156 in 156 bytes"):
        parse_message(SHA256_USERHASH)

    text = SHA256_USERHASH[:2] + (136).to_bytes(2) + SHA256_USERHASH[4:-36]
    corrected = text + SHA256_USERHASH[-36:-32] + hmac.digest(key.reveal(), text, "sha256")
    message = parse_message(corrected)
    assert message.get(a.USERHASH) == userhash(MATRIX, "example.org")
    assert message.get(a.NONCE) == "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"
    assert message.verify(key)
    assert not message.verify(long_term_key(1, MATRIX, "example.org", Secret("TheMatrIX")))
    fields = [field for field in message.attributes if field.code != a.MESSAGE_INTEGRITY_SHA256.code]
    assert request(Method.BINDING, message.transaction_id, fields).encode(sha256=key) == corrected


def test_key_of_rfc8489_9_2_2() -> None:
    assert long_term_key(1, "user", "realm", Secret("pass")).reveal().hex() == "8493fbc53ba582fb4c044c456bdc40eb"


@pytest.mark.parametrize("data", [RESPONSE_V4, RESPONSE_V6], ids=["v4", "v6"])
def test_encoding_gives_the_published_bytes(data: bytes) -> None:
    """What is built here equals the vectors but for their padding, which RFC 5769 fills with spaces."""
    parsed = parse_message(data)
    fields = tuple(f for f in parsed.attributes if f.code != a.MESSAGE_INTEGRITY.code)
    built = Message(parsed.message_class, parsed.method, parsed.transaction_id, fields)
    encoded = built.encode(sha1=_short_term(), fingerprint=True)
    again = parse_message(encoded)
    assert again.verify(_short_term())
    assert len(encoded) == len(data)
    assert encoded[20:35] == data[20:35]
    assert encoded[36 : len(data) - 32] == data[36 : len(data) - 32]


def test_sha1_and_sha256_together() -> None:
    key = Secret(b"k" * 16)
    data = request(Method.BINDING, bytes(12), [a.USERNAME("u")]).encode(sha1=key, sha256=key, fingerprint=True)
    message = parse_message(data)
    assert message.sha1_at and message.sha256_at
    assert message.verify(key)
    broken = bytearray(data)
    broken[-12] ^= 1  # within the SHA-256 value; drop FINGERPRINT so that only the HMAC can tell
    del broken[-8:]
    broken[2:4] = (len(broken) - 20).to_bytes(2)
    assert not parse_message(bytes(broken)).verify(key)


def test_attributes_after_integrity_are_ignored() -> None:
    """RFC 8489 14.5: else someone on the path could add a LIFETIME to a signed request."""
    key = Secret(b"k")
    data = bytearray(request(Method.REFRESH, bytes(12)).encode(sha1=key))
    data += bytes.fromhex("000d000400000000")
    data[2:4] = (len(data) - 20).to_bytes(2)
    message = parse_message(bytes(data))
    assert message.verify(key)
    assert a.LIFETIME not in message


def test_no_integrity_never_verifies() -> None:
    assert not parse_message(request(Method.BINDING, bytes(12)).encode()).verify(Secret(b""))


def test_every_attribute_round_trips() -> None:
    samples: dict[int, object] = {
        a.MAPPED_ADDRESS.code: ("192.0.2.7", 1),
        a.USERNAME.code: "ü:ser",
        a.MESSAGE_INTEGRITY.code: None,
        a.ERROR_CODE.code: a.ErrorCode(438, "Stale Nonce"),
        a.UNKNOWN_ATTRIBUTES.code: (0x7F01, 2, 3),
        a.CHANNEL_NUMBER.code: 0x4ABC,
        a.LIFETIME.code: 2**32 - 1,
        a.XOR_PEER_ADDRESS.code: ("2001:db8::1", 65535),
        a.DATA.code: b"x",
        a.REALM.code: "ims.example",
        a.NONCE.code: "n",
        a.XOR_RELAYED_ADDRESS.code: ("203.0.113.2", 49152),
        a.REQUESTED_ADDRESS_FAMILY.code: 6,
        a.EVEN_PORT.code: True,
        a.REQUESTED_TRANSPORT.code: 17,
        a.DONT_FRAGMENT.code: True,
        a.MESSAGE_INTEGRITY_SHA256.code: None,
        a.PASSWORD_ALGORITHM.code: a.PasswordAlgorithm(2, b"abc"),
        a.USERHASH.code: bytes(range(32)),
        a.XOR_MAPPED_ADDRESS.code: ("0.0.0.0", 0),
        a.RESERVATION_TOKEN.code: b"12345678",
        a.PRIORITY.code: 1,
        a.USE_CANDIDATE.code: True,
        a.ADDITIONAL_ADDRESS_FAMILY.code: 6,
        a.ADDRESS_ERROR_CODE.code: a.AddressErrorCode(6, 440, "no"),
        a.PASSWORD_ALGORITHMS.code: (a.PasswordAlgorithm(2), a.PasswordAlgorithm(1, b"12345")),
        a.ALTERNATE_DOMAIN.code: "turn.ims.example",
        a.ICMP.code: a.Icmp(3, 4, bytes.fromhex("000005dc")),
        a.SOFTWARE.code: "imsbridge",
        a.ALTERNATE_SERVER.code: ("::1", 3478),
        a.FINGERPRINT.code: None,
        a.ICE_CONTROLLED.code: 2**64 - 1,
        a.ICE_CONTROLLING.code: 7,
    }
    assert samples.keys() == a.TABLE.keys(), "a new attribute needs a sample here"
    fields = [a.Field(code, value) for code, value in samples.items() if value is not None]
    data = request(Method.ALLOCATE, bytes(range(12)), fields).encode(fingerprint=True)
    assert list(parse_message(data).attributes) == fields


def test_type_bits() -> None:
    """All twelve method bits and both class bits (RFC 8489 figure 3)."""
    for method in (0x001, 0x00F, 0x010, 0x080, 0x800, 0xFFF):
        for message_class in MessageClass:
            data = Message(message_class, method, bytes(12)).encode()
            assert data[0] & 0xC0 == 0
            parsed = parse_message(data)
            assert (parsed.message_class, parsed.method) == (message_class, method)


def test_unknown_required_attributes_are_listed_once() -> None:
    message = request(Method.BINDING, bytes(12), [a.Field(0x7F00, b"1"), a.Field(0xFF00, b""), a.Field(0x7F00, b"")])
    assert parse_message(message.encode()).unknown_required == (0x7F00,)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (bytes.fromhex("00190003110000") + b"\0", 400),  # REQUESTED-TRANSPORT of 3 bytes
        (bytes.fromhex("00120008000300000000 0000".replace(" ", "")), 400),  # address of family 3
        (bytes.fromhex("00060002ff fe0000".replace(" ", "")), 400),  # USERNAME not UTF-8
        (bytes.fromhex("0009000400000100"), 400),  # ERROR-CODE of class 1
        (bytes.fromhex("001d000400020008"), 400),  # PASSWORD-ALGORITHM longer than itself
        (bytes.fromhex("000d0008") + bytes(4), 400),  # more bytes announced than there are
        (bytes.fromhex("8028000400000000"), None),  # wrong FINGERPRINT: perhaps no STUN at all
        (bytes.fromhex("80280000"), None),
    ],
)
def test_bad_attributes(change: bytes, code: int | None) -> None:
    data = bytearray(request(Method.ALLOCATE, bytes(range(12))).encode() + change)
    data[2:4] = len(change).to_bytes(2)
    with pytest.raises(StunError) as caught:
        parse_message(bytes(data))
    assert caught.value.code == code
    if code:
        assert (caught.value.method, caught.value.transaction_id) == (Method.ALLOCATE, bytes(range(12)))
    assert "RFC" in str(caught.value)
    data[0:2] = (0x0113).to_bytes(2)  # the same as an error response: never answered
    with pytest.raises(StunError) as caught:
        parse_message(bytes(data))
    assert caught.value.code is None


@pytest.mark.parametrize("vector", [REQUEST, RESPONSE_V6, LONG_TERM, SHA256_USERHASH])
def test_truncation_at_each_byte(vector: bytes) -> None:
    for length in range(len(vector)):
        with pytest.raises(StunError):
            parse_message(vector[:length])
        if length >= 20:  # once more with a header that agrees
            cut = bytearray(vector[: length // 4 * 4])
            cut[2:4] = (len(cut) - 20).to_bytes(2)
            try:
                parse_message(bytes(cut))
            except StunError:
                pass


@given(st.sampled_from([REQUEST, RESPONSE_V4, LONG_TERM, SHA256_USERHASH]), st.data())
def test_only_stun_error_escapes(vector: bytes, data: st.DataObject) -> None:
    """A valid prefix, then noise, with a header that agrees."""
    keep = data.draw(st.integers(0, len(vector)))
    noise = data.draw(st.binary(max_size=200))
    fuzzed = bytearray(vector[:keep] + noise)
    if len(fuzzed) >= 20 and data.draw(st.booleans()):
        del fuzzed[len(fuzzed) // 4 * 4 :]
        fuzzed[2:4] = (len(fuzzed) - 20).to_bytes(2)
    try:
        message = parse_message(bytes(fuzzed))
    except StunError:
        return
    message.verify(Secret(b"key"))
    repr(message)
    message.unknown_required  # noqa: B018


@given(st.binary(max_size=120))
def test_each_value_decoder_raises_stun_error_only(value: bytes) -> None:
    for attribute in a.TABLE.values():
        try:
            attribute.unpack(value, bytes(12))
        except StunError:
            pass


def test_aioice_reads_ours_and_we_read_aioice() -> None:
    """Another implementation as witness: addresses, text, integrity and fingerprint both ways."""
    key = Secret(b"0123456789abcdef")
    ours = request(
        Method.ALLOCATE,
        b"abcdefghijkl",
        [a.USERNAME("alice"), a.XOR_PEER_ADDRESS(("2001:db8::5", 40000)), a.REQUESTED_TRANSPORT(17)],
    ).encode(sha1=key, fingerprint=True)
    theirs = aioice_stun.parse_message(ours)
    assert theirs.check_message_integrity(key.reveal())
    assert theirs.attributes["XOR-PEER-ADDRESS"] == ("2001:db8::5", 40000)
    assert theirs.attributes["USERNAME"] == "alice"

    message = aioice_stun.Message(
        message_method=aioice_stun.Method.CREATE_PERMISSION, message_class=aioice_stun.Class.REQUEST
    )
    message.attributes["XOR-PEER-ADDRESS"] = ("192.0.2.99", 7)
    message.add_message_integrity(key.reveal())
    parsed = parse_message(bytes(message))
    assert parsed.method == Method.CREATE_PERMISSION
    assert parsed.get(a.XOR_PEER_ADDRESS) == ("192.0.2.99", 7)
    assert parsed.verify(key)


def test_is_stun() -> None:
    assert is_stun(REQUEST)
    assert not is_stun(REQUEST[:19])
    assert not is_stun(b"\x40" + REQUEST[1:])
    assert not is_stun(b"\x16\xfe\xfd" + bytes(30))


def test_nothing_secret_in_repr() -> None:
    text = repr(parse_message(LONG_TERM))
    assert MATRIX not in text
    assert "USERNAME" in text
