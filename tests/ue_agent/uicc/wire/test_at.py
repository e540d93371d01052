"""Lines of an AT port: what modems write, and noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.uicc.errors import AtError
from ue_agent.uicc.wire import at
from ue_agent.uicc.wire.at import Final, LineReader, SimState


def test_lines_whatever_the_pieces() -> None:
    stream = b'\r\n+CSIM: 4,"9000"\r\n\r\nOK\r\n+CREG: 1\n\0ERROR\r'
    lines = ['+CSIM: 4,"9000"', "OK", "+CREG: 1", "ERROR"]
    assert LineReader().feed(stream) == lines
    by_octet = LineReader()
    assert [line for i in range(len(stream)) for line in by_octet.feed(stream[i : i + 1])] == lines


def test_a_line_without_end_is_not_kept() -> None:
    reader = LineReader()
    for _ in range(1000):
        assert reader.feed(b"\xff" * 1000) == []
        assert len(reader._held) <= at.MAX_LINE
    assert reader.dropped == 0
    assert reader.feed(b"\xff\r\nOK\r\n") == ["OK"]
    assert reader.dropped == 1
    assert reader.feed(b"x" * at.MAX_LINE + b"\r") == ["x" * at.MAX_LINE]
    assert reader.feed(b"x" * (at.MAX_LINE + 1) + b"\rOK\r") == ["OK"]


@pytest.mark.parametrize(
    ("line", "final", "shown"),
    [
        ("OK", Final(True), "OK"),
        ("ERROR", Final(False, None, "ERROR"), "ERROR"),
        ("+CME ERROR: 10", Final(False, 10, "+CME ERROR: 10"), "+CME ERROR: 10 (SIM not inserted)"),
        ("+CME ERROR:3", Final(False, 3, "+CME ERROR:3"), "+CME ERROR:3 (operation not allowed)"),
        ("+CME ERROR: 772", Final(False, 772, "+CME ERROR: 772"), "+CME ERROR: 772 (not in TS 27.007)"),
        ("+CME ERROR: SIM PIN required", Final(False, 11, "+CME ERROR: SIM PIN required"), None),
        ("+CME ERROR: (U)SIM PUK required.", Final(False, 12, "+CME ERROR: (U)SIM PUK required."), None),
        ("+cme error: sim not inserted", Final(False, 10, "+cme error: sim not inserted"), None),
        ("+CME ERROR: nobody knows", Final(False, None, "+CME ERROR: nobody knows"), None),
        ("+CMS ERROR: 310", Final(False, None, "+CMS ERROR: 310"), None),
        ("COMMAND NOT SUPPORT", Final(False, None, "COMMAND NOT SUPPORT"), None),  # SIMCom
    ],
)
def test_final_results(line: str, final: Final, shown: str | None) -> None:
    """TS 27.007 clause 9.2: numbers, words, neither."""
    assert at.final_result(line) == final
    assert str(final) == (shown or final.text)


@pytest.mark.parametrize("line", ['+CSIM: 4,"9000"', "RING", "1", "OKAY", "NO CARRIER", "+CME"])
def test_no_final_result(line: str) -> None:
    assert at.final_result(line) is None


def test_commands() -> None:
    """TS 27.007 clauses 8.17, 8.43, 8.45, 8.46: lengths in characters."""
    apdu = bytes.fromhex("00a40004023f00")
    assert at.csim(apdu) == 'AT+CSIM=14,"00A40004023F00"'
    assert at.cgla(2, apdu) == 'AT+CGLA=2,14,"00A40004023F00"'
    assert at.ccho(bytes.fromhex("A0000000871004")) == 'AT+CCHO="A0000000871004"'
    assert at.cchc(101) == "AT+CCHC=101"


@pytest.mark.parametrize(
    ("line", "prefix", "answer"),
    [
        ('+CSIM: 4,"9000"', "+CSIM:", (b"", 0x9000)),
        ('+CGLA: 8,"01029000"', "+CGLA:", (b"\x01\x02", 0x9000)),
        ("+CGLA:8,01026a82", "+CGLA:", (b"\x01\x02", 0x6A82)),
        ('+CSIM: 4 , "01026A82" ', "+CSIM:", (b"\x01\x02", 0x6A82)),  # octets counted
    ],
)
def test_answers_of_the_card(line: str, prefix: str, answer: tuple[bytes, int]) -> None:
    assert at.parse_apdu(line, prefix) == answer


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("+CSIM:", "not a length and octets"),
        ('+CSIM: 4,"90"', "announced 4 characters and sent 2"),
        ('+CSIM: 40,"9000"', "announced 40 characters and sent 4"),
        ('+CSIM: 3,"900"', "announced 3"),
        ('+CSIM: 0,""', "no status word"),
        ('+CSIM: 2,"90"', "no status word"),
        ('+CSIM: 4,"90 00"', "not a length and octets"),
        ('+CSIM: ٤,"9000"', "not a length"),
    ],
)
def test_what_is_wrong_with_an_answer(line: str, message: str) -> None:
    with pytest.raises(AtError, match=rf"{message}.* \(TS 27.007 8.17\)"):
        at.parse_apdu(line, "+CSIM:")


@pytest.mark.parametrize(("line", "session"), [("1", 1), ("+CCHO: 101", 101), ('+CCHO:"3"', 3)])
def test_sessions(line: str, session: int) -> None:
    assert at.parse_session(line) == session


@pytest.mark.parametrize("line", ["", "+CCHO:", "+CCHO: x", "-1", "99999999999", "4294967296"])
def test_no_session(line: str) -> None:
    with pytest.raises(AtError, match="not a session's number"):
        at.parse_session(line)


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("+CPIN: READY", SimState.READY),
        ('+CPIN:"ready"', SimState.READY),
        ("+CPIN: SIM PIN", SimState.PIN),
        ("+CPIN: SIM PUK", SimState.PUK),
        ("+CPIN: SIM PIN2", SimState.READY),
        ("+CPIN: PH-NET PIN", SimState.READY),
        ("+CPIN: NOT INSERTED", SimState.ABSENT),
        ("+CPIN: NOT READY", SimState.BUSY),
    ],
)
def test_pin_states(line: str, state: SimState) -> None:
    """TS 27.007 clause 8.3."""
    assert at.parse_sim_state(line) is state


def test_unknown_pin_state() -> None:
    with pytest.raises(AtError, match="none of the known codes"):
        at.parse_sim_state("+CPIN: WHAT")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        ("ERROR", SimState.ABSENT),
        ("+CME ERROR: 10", SimState.ABSENT),
        ("+CME ERROR: 11", SimState.PIN),
        ("+CME ERROR: 12", SimState.PUK),
        ("+CME ERROR: 13", SimState.FAILED),
        ("+CME ERROR: SIM busy", SimState.BUSY),
    ],
)
def test_refused_pin_states(error: str, state: SimState) -> None:
    final = at.final_result(error)
    assert final is not None and at.sim_state_of(final) is state


def test_tries_left() -> None:
    """TS 27.007 clause 8.65, its example."""
    lines = ["+CPINR: SIM PUK,10,10", '+CPINR: "SIM PIN",2,3', "+CPINR: SIM PIN2,3,3"]
    assert at.parse_tries(lines) == 2
    assert at.parse_tries(["+CPINR: SIM PUK,10", "+CPINR: nonsense"]) is None


@pytest.mark.parametrize(
    "line",
    [
        "+CPIN: NOT READY",
        "+CPIN: NOT INSERTED",
        "+CME ERROR: SIM not inserted",
        "+QSIMSTAT: 1,0",
        "^SIMST: 255",
        "#QSS: 0",
    ],
)
def test_removals(line: str) -> None:
    assert at.is_removal(line) and not at.is_arrival(line)


@pytest.mark.parametrize("line", ["+CPIN: READY", "+CPIN: SIM PIN", "+QSIMSTAT: 1,1", "^SIMST: 1", "#QSS: 1"])
def test_arrivals(line: str) -> None:
    assert at.is_arrival(line) and not at.is_removal(line)


_VALID = ['+CSIM: 8,"01029000"', "+CCHO: 12", "+CPIN: SIM PIN", '+CPINR: "SIM PIN",2,3', "+CME ERROR: SIM busy", "OK"]
_PARSERS: list[Callable[[str], object]] = [
    lambda line: at.parse_apdu(line, "+CSIM:"),
    at.parse_session,
    at.parse_sim_state,
    lambda line: at.parse_tries([line]),
    at.final_result,
    at.is_removal,
    at.is_arrival,
]


@given(st.sampled_from(_VALID), st.integers(0, 20), st.text(max_size=60))
def test_only_an_at_error_escapes(valid: str, cut: int, noise: str) -> None:
    """A valid beginning, cut off at each character, with noise behind it."""
    for parse in _PARSERS:
        try:
            parse(valid[:cut] + noise)
        except AtError:
            pass


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_octets_make_bounded_lines(pieces: list[bytes]) -> None:
    reader, whole = LineReader(), LineReader()
    lines = [line for piece in pieces for line in reader.feed(piece)]
    assert lines == whole.feed(b"".join(pieces))
    assert all(0 < len(line) <= at.MAX_LINE for line in lines)
