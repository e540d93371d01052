"""A card's conversation in words; what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.card_bench.observe import Exchange
from ue_agent.card_bench.words import Narrator, Told

USIM, ISIM = "A0000000871002FFFFFFFF8907090000", "A0000000871004FFFFFFFF8907090000"
RAND, AUTN = "00112233445566778899AABBCCDDEEFF", "0F1E2D3C4B5A69788796A5B4C3D2E1F0"
RES, CK, IK, KC = "A1" * 8, "B2" * 16, "C3" * 16, "D4" * 8


def tell(narrator: Narrator, command: str, answer: str) -> Told:
    octets = bytes.fromhex(answer)
    return narrator.tell(Exchange(0.0, 0.001, bytes.fromhex(command), octets[:-2], int.from_bytes(octets[-2:])))


def last(*exchanges: tuple[str, str], show_keys: bool = False) -> Told:
    """Tell all, return the last."""
    narrator = Narrator(show_keys=show_keys)
    return [tell(narrator, *exchange) for exchange in exchanges][-1]


SELECT_ISIM = (f"00A4040410{ISIM}", "9000")
SELECT_USIM = (f"00A4040410{USIM}", "9000")


@pytest.mark.parametrize(
    ("before", "command", "answer", "words"),
    [
        ([], "00A40004023F00", "6127", ("SELECT MF", "39 octets wait")),
        ([], "00A40004022FE2", "6A82", ("SELECT EF_ICCID", "file or application not found")),
        ([], f"00A4040410{ISIM}", "6135", ("SELECT ISIM", "53 octets wait")),
        ([], "00A4040407A0000000871002", "9000", ("SELECT USIM", "done")),
        ([SELECT_USIM], "00A40004026F07", "9000", ("SELECT EF_IMSI", "done")),
        ([SELECT_ISIM], "00A40004026F07", "9000", ("SELECT EF_IST", "done")),
        ([SELECT_ISIM], "00A40804047FFF6F02", "9000", ("SELECT the application/EF_IMPI", "done")),
        ([], "0070000001", "019000", ("MANAGE CHANNEL, open any", "1 octet")),
        ([], "00708001", "9000", ("MANAGE CHANNEL, close 1", "done")),
        ([], "01A40004022FE2", "9000", ("SELECT EF_ICCID [channel 1]", "done")),
        ([], "0020000100", "63C2", ("VERIFY PIN (PIN1), tries left?", "PIN not verified, 2 tries left")),
        ([], "80F2000C", "9000", ("STATUS", "done")),
        ([], "00B0000000", "6C0A", ("READ BINARY no file", "ask for 10 octets")),
        ([], "80100000", "9110", ("TERMINAL PROFILE", "done; a toolkit command waits")),
        ([], "80E2000000", "6D00", ("instruction E2", "instruction not supported")),
        ([], "00A4", "6700", ("SELECT MF", "wrong length")),
    ],
)
def test_words(before: list[tuple[str, str]], command: str, answer: str, words: tuple[str, str]) -> None:
    told = last(*before, (command, answer))
    assert (told.command, told.answer) == words


@pytest.mark.parametrize(
    ("select", "fid", "content", "words"),
    [
        (SELECT_USIM, "6F07", "080910100000000010", "001010000000001"),
        (SELECT_USIM, "6FAD", "00000002", "MNC of 2 digits"),
        (SELECT_USIM, "6F46", "01" + b"Lab".hex() + "FFFF", "Lab"),
        (SELECT_ISIM, "6F07", "030008", "services 1 2 20"),
        (SELECT_ISIM, "6F02", "8003" + b"a@b".hex() + "FF", "a@b"),
        (SELECT_ISIM, "6F02", "FF" * 12, "blank"),
        (SELECT_ISIM, "6F02", "8099FF00", "4 octets"),
        (SELECT_ISIM, "6FF8", "010203", "3 octets"),
    ],
)
def test_contents(select: tuple[str, str], fid: str, content: str, words: str) -> None:
    told = last(select, (f"00A4000402{fid}", "9000"), ("00B0000000", content + "9000"))
    assert told.answer == words


def test_fcp() -> None:
    """Of a real sysmoISIM-SJA2 (EF_IMPI)."""
    fcp = "621f8202412183026f02a506d00120d2010f8a01058b036f060380020080880110"
    told = last(("00A40004026F02", f"61{len(fcp) // 2:02x}"), (f"00C00000{len(fcp) // 2:02x}", fcp + "9000"))
    assert (told.command, told.answer) == ("GET RESPONSE", "FCP: 128 octets")


CHALLENGE = f"008800812210{RAND}10{AUTN}"
KEYS = f"DB08{RES}10{CK}10{IK}"


@pytest.mark.parametrize("t0", [True, False], ids=["T=0", "T=1"])
@pytest.mark.parametrize("kc", [False, True], ids=["ISIM", "USIM with Kc"])
def test_authenticate_leaves_the_keys_out(t0: bool, kc: bool) -> None:
    answer = KEYS + (f"08{KC}" if kc else "")
    length = f"{len(answer) // 2:02X}"
    exchanges = [(CHALLENGE, f"61{length}"), (f"00C00000{length}", answer + "9000")]
    told = last(*(exchanges if t0 else [(CHALLENGE + "00", answer + "9000")]))
    assert told.answer == "success: RES, CK, IK" + (", Kc" if kc else "")
    assert told.answer_hex == "DB08 <RES 8> 10 <CK 16> 10 <IK 16>" + (" 08 <Kc 8>" if kc else "") + " 9000"
    assert told.exchange.answer.hex().upper() == f"DB08{'00' * 8}10{'00' * 16}10{'00' * 16}" + (
        f"08{'00' * 8}" if kc else ""
    )
    shown = last(*(exchanges if t0 else [(CHALLENGE + "00", answer + "9000")]), show_keys=True)
    assert CK in shown.answer_hex and shown.exchange.answer.hex().upper() == answer


def test_authenticate_in_words() -> None:
    told = last(SELECT_ISIM, (CHALLENGE, "9862"))
    assert (told.command, told.answer) == ("AUTHENTICATE, 3G/IMS AKA", "authentication error, incorrect MAC")
    assert RAND in told.command_hex and not told.ok
    auts = "DC0E" + "5A" * 14
    told = last((CHALLENGE, "6110"), ("00C0000010", auts + "9000"))
    assert (told.answer, told.answer_hex) == ("synchronisation failure: AUTS", f"{auts} 9000")


def test_gba() -> None:
    told = last((f"0088008423DD10{RAND}10{AUTN}", f"DB08{RES}9000"))
    assert (told.command, told.answer_hex) == ("AUTHENTICATE, GBA bootstrapping", "DB08 <RES 8> 9000")
    told = last((f"0088008409DE05{'6E61662E78'}0161", f"DB20{CK}{IK}9000"))
    assert (told.command, told.answer_hex) == ("AUTHENTICATE, GBA NAF derivation", "DB20 <Ks_ext_NAF 32> 9000")


def test_gsm_context() -> None:
    told = last((f"008800801110{RAND}", f"04{RES[:8]}08{KC}9000"))
    assert told.answer_hex == "04 <SRES 4> 08 <Kc 8> 9000"


@pytest.mark.parametrize(
    "answer", [KEYS[:-2], f"{KEYS}01", f"DA{KEYS[2:]}", RES, f"DB08{RES}10{CK}11{IK}", "DC0D" + RES]
)
def test_an_answer_that_is_none_shows_nothing(answer: str) -> None:
    told = last((CHALLENGE + "00", answer + "9000"))
    assert set(told.exchange.answer) == {0}
    for secret in (RES, CK, IK):
        assert secret[:12] not in told.answer_hex


def test_an_answer_in_two_parts_shows_nothing() -> None:
    narrator = Narrator()
    tell(narrator, CHALLENGE, "612C")
    for command, answer in (("00C0000014", KEYS[:40] + "6118"), ("00C0000018", KEYS[40:] + "9000")):
        assert set(tell(narrator, command, answer).exchange.answer) == {0}


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("002000010838343137FFFFFFFF", "0020000108 <PIN 8>"),
        ("002400011038343137FFFFFFFF37313438FFFFFFFF", "0024000110 <PIN 8> <new PIN 8>"),
        ("002C0001103939383837373636" + "38343137FFFFFFFF", "002C000110 <PUK 8> <new PIN 8>"),
        ("00260001083834313700000000", "0026000108 <PIN 8>"),
        ("0028000104383431", "0028000104 <PIN 3>"),
        ("A020000108" + "38343137FFFFFFFF00", "A020000108 <PIN 8> <data 1>"),
    ],
)
def test_pins_are_left_out(command: str, shown: str) -> None:
    told = last((command, "9000"))
    assert told.command_hex == shown
    assert "383431" not in told.command_hex and b"841" not in told.exchange.command


def test_unknown_commands_and_files_with_keys() -> None:
    assert last(("80E2800004AABBCCDD", "9000")).command_hex == "80E2800004 <data 4>"
    assert last(("80CA00FF00", "AABB9000")).answer_hex == "<data 2> 9000"
    keys = last(SELECT_USIM, ("00A40004026F08", "9000"), ("00B0000000", "07" + CK + IK + "9000"))
    assert (keys.command, keys.answer_hex) == ("READ BINARY EF_Keys", "<content 33> 9000")
    by_sfi = last(SELECT_USIM, ("00B0880000", "07" + CK + IK + "9000"))
    assert by_sfi.answer_hex == "<content 33> 9000"
    pcscf = last(SELECT_ISIM, ("00A40004026F09", "9000"), ("00B2010400", "8005010A2D00019000"))
    assert pcscf.answer == "10.45.0.1", "6F09 holds keys in the USIM only"
    stray = last(("00C0000004", "AABBCCDD9000"))
    assert stray.answer_hex == "<data 4> 9000", "nobody knows whose answer that is"


@given(st.lists(st.tuples(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 0xFFFF)), max_size=6))
def test_any_octets(conversation: list[tuple[bytes, bytes, int]]) -> None:
    narrator = Narrator()
    for command, answer, sw in conversation:
        told = narrator.tell(Exchange(0.0, 0.0, command, answer, sw))
        assert (len(told.exchange.command), len(told.exchange.answer)) == (len(command), len(answer))


@given(st.binary(max_size=12), st.binary(min_size=1, max_size=80), st.sampled_from([0x80, 0x81, 0x84, 0x85]))
def test_no_answer_to_authenticate_shows_more_than_its_structure(noise: bytes, answer: bytes, context: int) -> None:
    """Whatever the card answers, only tags and lengths, or AUTS, are shown."""
    narrator = Narrator()
    told = narrator.tell(Exchange(0.0, 0.0, bytes([0, 0x88, 0, context, len(noise)]) + noise, answer, 0x9000))
    if answer[:1] == b"\xdc" and len(answer) == 16 and answer[1] == 14:
        return
    shown = told.exchange.answer
    assert all(octet in (0, answer[index]) for index, octet in enumerate(shown))
    assert sum(octet != 0 for octet in shown) <= 5, "a tag and four lengths"
