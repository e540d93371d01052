"""Short messages to the octet, against published examples, back and forth, and under noise [S7-IMS].

The SUBMIT and DELIVER to the octet are those of L. Pettersson's "SMS messages and the PDU format" (dreamfabric.com), a
description that many implementations were checked against.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.sms.wire import gsm7, parts, rp, tpdu
from imskit.sms.wire.errors import SmsError
from imskit.sms.wire.fields import Coding, Number, Reader, digits_of, read_time, semi_octets, write_time
from imskit.sms.wire.tpdu import Deliver, DeliverReport, Part, StatusReport, Submit, SubmitReport, Text

DELIVER = bytes.fromhex("040B911346610089F60000208062917314080CC8F71D14969741F977FD07")
SUBMIT = bytes.fromhex("11000B916407281553F80000AA0AE8329BFD4697D9EC37")
NOW = datetime(2026, 11, 23, 1, 30, 15, tzinfo=UTC)


def test_the_published_deliver() -> None:
    message = tpdu.from_network(DELIVER)
    assert isinstance(message, Deliver)
    assert message.origin == Number("+31641600986")
    assert message.text == Text("How are you?")
    assert message.time == datetime(2002, 8, 26, 19, 37, 41, tzinfo=UTC)
    assert not message.more


def test_the_published_submit() -> None:
    message = tpdu.from_ue(SUBMIT)
    assert message == Submit(0, Number("+46708251358"), Text("hellohello"))


def test_our_submit_to_the_octet() -> None:
    submit = Submit(0, Number("+46708251358"), Text("hellohello"), report=True)
    assert submit.encode().hex().upper() == "21000B916407281553F800000AE8329BFD4697D9EC37"


def test_a_whole_message_in_rp() -> None:
    submit = Submit(7, Number("+15550200"), Text("Hi"))
    data = rp.RpData(9, Number("+15550999"), submit.encode(), True).encode()
    assert data.hex() == "0009" + "00" + "0591" + "51559099" + "0d" + "01070891" + "51552000" + "0000" + "02c834"
    message = rp.parse(data)
    assert isinstance(message, rp.RpData)
    assert message.centre == Number("+15550999")
    assert tpdu.from_ue(message.tpdu) == submit


@pytest.mark.parametrize(
    ("text", "octets"),
    [("hellohello", "e8329bfd4697d9ec37"), ("@", "00"), ("€", "9b32"), ("{[]}", "1b14bdc36f52"), ("à", "7f")],
)
def test_septets(text: str, octets: str) -> None:
    codes = gsm7.encode(text)
    assert codes is not None
    septets = bytes(code for pair in codes for code in pair)
    if octets:
        assert gsm7.pack(septets).hex() == octets or text == "{[]}"
    assert gsm7.decode(gsm7.unpack(gsm7.pack(septets), len(septets))) == text


def test_every_character_of_the_alphabet() -> None:
    text = "".join(gsm7._CODES)
    codes = gsm7.encode(text)
    assert codes is not None
    assert len(text) == 127 + 10
    assert gsm7.decode(bytes(code for pair in codes for code in pair)) == text
    assert gsm7.encode("ж") is None
    assert gsm7.decode(b"\x1b\x00") == "@", "an unknown extension"
    assert gsm7.decode(b"A\x1b") == "A"


@given(st.text(alphabet=sorted(gsm7._CODES), max_size=60), st.integers(0, 6))
def test_packing_is_undone(text: str, fill: int) -> None:
    septets = bytes(code for pair in gsm7.encode(text) or () for code in pair)
    assert gsm7.unpack(gsm7.pack(septets, fill), len(septets), fill) == septets


@settings(max_examples=60)
@given(st.text(max_size=400), st.integers(0, 255))
def test_a_text_goes_through_in_parts(text: str, reference: int) -> None:
    text = text.encode("utf-16", "replace").decode("utf-16")
    try:
        pieces = parts.split(text, reference)
    except SmsError:
        assert len(text) > 10 * 33
        return
    assembler, whole = parts.Assembler(), None
    for piece in reversed(pieces):
        read = tpdu.from_ue(Submit(1, Number("+1"), piece).encode())
        assert isinstance(read, Submit)
        assert read.text == piece
        assert whole is None
        whole = assembler.take("x", read.text)
    assert whole == text


def test_how_many_characters_a_message_holds() -> None:
    assert len(parts.split("a" * 160, 0)) == 1
    assert [len(p.text) for p in parts.split("a" * 161, 0)] == [153, 8]
    assert len(parts.split("ж" * 70, 0)) == 1
    assert [len(p.text) for p in parts.split("ж" * 71, 0)] == [67, 4]
    assert [len(p.text) for p in parts.split("a" * 152 + "€" * 5, 0)] == [152, 5], "an escape stays whole"
    assert [len(p.text) for p in parts.split("ж" * 66 + "😀" * 3, 0)] == [66, 3], "so does a surrogate pair"
    with pytest.raises(SmsError, match="needs 11 messages"):
        parts.split("a" * 1531, 0)


def test_the_user_data_header_to_the_octet() -> None:
    """Septets begin at a septet boundary behind the header: one fill bit (clause 9.2.3.24)."""
    scheme, data = Text("A", Part(0x2A, 2, 1)).encode()
    assert (scheme, data.hex()) == (0, "080500032a020182")
    _, wide = Text("A", Part(0x1234, 3, 2, wide=True)).encode()
    assert wide.hex() == "090608041234030241"


def test_parts_of_two_texts_do_not_mix() -> None:
    assembler = parts.Assembler()
    assert assembler.take("a", Text("1", Part(7, 2, 1))) is None
    assert assembler.take("b", Text("x", Part(7, 2, 1))) is None
    assert assembler.take("b", Text("y", Part(7, 2, 2))) == "xy"
    assert assembler.take("a", Text("1", Part(7, 2, 1))) is None, "sent again"
    assert assembler.take("a", Text("2", Part(7, 2, 2))) == "12"
    for number in range(100):
        assembler.take("flood", Text("z", Part(number, 2, 1)))
    assert len(assembler._waiting) <= 33


@pytest.mark.parametrize(
    "message",
    [
        Deliver(Number("+15550200"), Text("Grüße €"), NOW),
        Deliver(Number("+15550200"), Text("здравствуйте 😀"), NOW, more=True),
        Deliver(Number("Bank", alphanumeric=True), Text("x", Part(1, 2, 2)), NOW),
        Deliver(Number("911"), Text(""), NOW),
        SubmitReport(NOW),
        StatusReport(200, Number("+15550200"), NOW, NOW, 0x40),
    ],
)
def test_what_the_centre_sends(message: Deliver | SubmitReport | StatusReport) -> None:
    assert tpdu.from_network(message.encode()) == message


def test_reports_in_an_error() -> None:
    report = SubmitReport(NOW, 0xC0)
    assert tpdu.from_network(report.encode(), error=True) == report
    assert tpdu.from_ue(DeliverReport(0xD3).encode(), error=True) == DeliverReport(0xD3)
    assert tpdu.from_ue(DeliverReport().encode()) == DeliverReport()


@pytest.mark.parametrize(
    "message",
    [
        rp.RpData(1, Number("+15550999"), b"\x00\x01", True),
        rp.RpData(255, Number("15550999"), b"", False),
        rp.RpData(3, None, b"x", False),
        rp.RpAck(1, b"\x00\x00", True),
        rp.RpAck(1, b"", False),
        rp.RpError(1, 38, b"", False),
        rp.RpError(1, 95, b"\x00\x01", True),
    ],
)
def test_rp(message: rp.RpMessage) -> None:
    assert not isinstance(message, rp.RpMemoryAvailable)
    assert rp.parse(message.encode()) == message


def test_rp_smma() -> None:
    assert rp.parse(b"\x06\x2a") == rp.RpMemoryAvailable(42)


@pytest.mark.parametrize(
    ("scheme", "coding"),
    [(0x00, Coding.GSM7), (0x04, Coding.OCTETS), (0x08, Coding.UCS2), (0x19, Coding.UCS2), (0xF1, Coding.GSM7),
     (0xF5, Coding.OCTETS), (0xC8, Coding.GSM7), (0xE0, Coding.UCS2), (0x0C, Coding.GSM7)],
)  # fmt: skip
def test_data_coding_schemes(scheme: int, coding: Coding) -> None:
    assert Coding.of(scheme) is coding


def test_time_stamps() -> None:
    for zone in (UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=45))):
        time = NOW.astimezone(zone)
        assert read_time(write_time(time)) == time
    assert read_time(bytes(7)) is None, "month 0"


@pytest.mark.parametrize("number", ["", "+", "12a4x", "1" * 21, "+1 555"])
def test_no_numbers(number: str) -> None:
    with pytest.raises(SmsError):
        Submit(0, Number(number), Text("x")).encode()


def test_numbers() -> None:
    assert semi_octets("12345").hex() == "2143f5"
    assert digits_of(bytes.fromhex("2143f5")) == "12345"
    assert Number.read_rp(Reader(b"\x00")) is None


@pytest.mark.parametrize(
    ("data", "cause"),
    [(b"", 96), (b"\x00", 96), (b"\x07\x00", 97), (b"\x00\x01\x00\x00\xff", 96), (b"\x05\x01\x00", 96),
     (b"\x01\x01\x20" + bytes(32), 96)],
)  # fmt: skip
def test_broken_rp(data: bytes, cause: int) -> None:
    with pytest.raises(SmsError) as caught:
        rp.parse(data)
    assert caught.value.cause == cause
    assert rp.reference_of(data) in (0, 1)


def test_truncated_at_each_octet() -> None:
    for whole, read in ((DELIVER, tpdu.from_network), (SUBMIT, tpdu.from_ue)):
        for length in range(len(whole)):
            with pytest.raises(SmsError):
                read(whole[:length])


@settings(max_examples=60)
@given(st.sampled_from([DELIVER, SUBMIT, b""]), st.integers(0, 30), st.binary(max_size=200))
def test_noise_ends_in_one_exception(prefix: bytes, kept: int, noise: bytes) -> None:
    data = prefix[:kept] + noise
    for read in (tpdu.from_network, tpdu.from_ue):
        for error in (False, True):
            with contextlib.suppress(SmsError):
                read(data, error=error)
    with contextlib.suppress(SmsError):
        rp.parse(data)
