"""Commands and their answers, with what readers and cards do to them."""

import logging

import pytest

from ue_agent.uicc.apdu import (
    Answer,
    CardChannel,
    Command,
    authenticate,
    meaning,
    query_pin,
    read_binary,
    read_record,
    select_aid,
    select_file,
    verify_pin,
)
from ue_agent.uicc.errors import CardError, CardUnresponsiveError


class Script:
    """A card that expects these commands and gives these answers."""

    def __init__(self, *exchanges: tuple[str, str], t0: bool = True) -> None:
        self.t0 = t0
        self.left = [(bytes.fromhex(command), bytes.fromhex(answer)) for command, answer in exchanges]

    def transmit(self, apdu: bytes) -> tuple[bytes, int]:
        expected, answer = self.left.pop(0)
        assert apdu.hex() == expected.hex()
        return answer[:-2], int.from_bytes(answer[-2:])


def send(script: Script, command: Command) -> tuple[str, str]:
    answer = CardChannel(script).send(command)  # type: ignore[arg-type]
    assert not script.left
    return answer.data.hex(), f"{answer.sw:04x}"


READ = read_binary(0, "EF_X")
SELECT = select_file(0x2FE2, "EF_ICCID")


@pytest.mark.parametrize(
    ("command", "t0", "t1"),
    [
        (SELECT, "00A40004022FE2", "00A40004022FE200"),
        (select_aid(b"\xa0\x00\x00\x00\x87\x10\x04"), "00A4040407A0000000871004", "00A4040407A000000087100400"),
        (READ, "00B0000000", "00B0000000"),
        (read_binary(0x123, "EF_X", 16), "00B0012310", "00B0012310"),
        (read_record(2, "EF_X", 43), "00B202042B", "00B202042B"),
        (query_pin(1), "0020000100", "00200001"),
        (verify_pin(0x81, "1234"), "002000810831323334FFFFFFFF", "002000810831323334FFFFFFFF"),
        (
            authenticate(bytes(16), bytes([1] * 16)),
            "008800812210" + "00" * 16 + "10" + "01" * 16,
            "008800812210" + "00" * 16 + "10" + "01" * 16 + "00",
        ),
    ],
)
def test_encoding(command: Command, t0: str, t1: str) -> None:
    """T=0 has no Le behind data and a P3 of 0 where there is nothing (ISO/IEC 7816-3 clause 12)."""
    assert command.encode(t0=True).hex().upper() == t0
    assert command.encode(t0=False).hex().upper() == t1


def test_get_response() -> None:
    script = Script(("00A40004022FE2", "6103"), ("00C0000003", "621000 9000"))
    assert send(script, SELECT) == ("621000", "9000")


def test_get_response_in_parts_and_with_a_corrected_length() -> None:
    script = Script(
        ("00A40004022FE2", "6100"), ("00C0000000", "6C02"), ("00C0000002", "AABB 6101"), ("00C0000001", "CC 9000")
    )
    assert send(script, SELECT) == ("aabbcc", "9000")


def test_corrected_length_of_a_read() -> None:
    assert send(Script(("00B0000000", "6C02"), ("00B0000002", "AABB 9000")), READ) == ("aabb", "9000")


def test_6c_to_a_select() -> None:
    """T=0: its answer waits.  T=1: it is sent again."""
    assert send(Script(("00A40004022FE2", "6C01"), ("00C0000001", "62 9000")), SELECT) == ("62", "9000")
    script = Script(("00A40004022FE200", "6C01"), ("00A40004022FE201", "62 9000"), t0=False)
    assert send(script, SELECT) == ("62", "9000")


def test_a_warning_with_data_waiting() -> None:
    script = Script(("00A40004022FE2", "6283"), ("00C0000000", "6C01"), ("00C0000001", "62 9000"))
    assert send(script, SELECT) == ("62", "6283")
    assert CardChannel(Script(("00B0000000", "AA6282"))).require(READ) == b"\xaa"  # type: ignore[arg-type]


def test_pending_proactive_command_is_success() -> None:
    assert CardChannel(Script(("00B0000000", "AA9110"))).require(READ) == b"\xaa"  # type: ignore[arg-type]


@pytest.mark.parametrize("sw", [0x6A82, 0x6982, 0x6281, 0x63C2, 0x6E00, 0x9862, 0x6F42])
def test_a_refusal_says_what_and_why(sw: int) -> None:
    with pytest.raises(CardError) as error:
        CardChannel(Script(("00B0000000", f"{sw:04x}"))).require(READ)  # type: ignore[arg-type]
    assert str(error.value) == f"the card answered READ BINARY of EF_X with {sw:04X}: {meaning(sw)}"
    assert (error.value.sw, error.value.command) == (sw, "READ BINARY of EF_X")
    assert meaning(sw) != "unknown status"


def test_a_card_that_never_ends() -> None:
    class Endless:
        t0 = True

        def transmit(self, apdu: bytes) -> tuple[bytes, int]:
            return b"\0", 0x6101

    with pytest.raises(CardUnresponsiveError, match="does not come to an end"):
        CardChannel(Endless()).send(READ)  # type: ignore[arg-type]


def test_the_trace_shows_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    rand, autn = bytes.fromhex("5ec4e7" * 5 + "aa"), bytes.fromhex("c0ffee" * 5 + "bb")
    waiting = "DB 08 " + "1122334455667788"
    run = authenticate(rand, autn)
    send(Script((run.encode(t0=True).hex(), "610A"), ("00C000000A", waiting + "9000")), run)
    send(Script(("002000010831323334FFFFFFFF", "9000")), verify_pin(1, "1234"))
    send(Script(("00B0000000", "80033132339000")), READ)
    text = caplog.text.lower()
    assert "authenticate" in text and "verify pin" in text
    for secret in ("5ec4e7", "c0ffee", "1122334455", "31323334", "1234", "313233"):
        assert secret not in text


def test_meanings() -> None:
    assert meaning(0x63C2) == "PIN not verified, 2 tries left"
    assert meaning(0x9862) == "authentication error, incorrect MAC"
    assert meaning(0x6AFF) == "wrong parameters"
    assert meaning(0x9000) == meaning(0x910B) == "normal ending"
    assert meaning(0x1234) == "unknown status"


def test_neither_command_nor_answer_shows_its_data() -> None:
    shown = repr([verify_pin(1, "73952"), authenticate(b"R" * 16, b"A" * 16), Answer(b"SECRET", 0x9000)])
    assert not any(hidden in shown for hidden in ("73952", "RRRR", "AAAA", "SECRET"))
