"""One AT command at a time, among echo, unsolicited lines and silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.engine import Tick
from ue_agent.uicc.engine.at_line import MAX_LINES, Ask, AtLine, Octets, Output, Reply, Silence, Unsolicited, Write
from ue_agent.uicc.wire.at import Final

CSIM = Ask('AT+CSIM=14,"00A40004023F00"', "+CSIM:", seconds=5)


def drain(line: AtLine) -> list[Output]:
    outputs = []
    while (output := line.poll()) is not None:
        outputs.append(output)
    return outputs


def asked(ask: Ask = CSIM) -> AtLine:
    line = AtLine()
    line.handle(ask, 100.0)
    assert drain(line) == [Write(ask.command.encode() + b"\r")]
    assert line.deadline() == 100.0 + ask.seconds
    return line


def test_the_answer_among_echo_and_unsolicited_lines() -> None:
    line = asked()
    line.handle(Octets(b'AT+CSIM=14,"00A40004023F00"\r\r\n+CREG: 1\r\n+CSI'), 100.1)
    line.handle(Octets(b'M: 4,"611F"\r\n\r\nRING\r\n\r\nOK\r\n+CREG: 2\r\n'), 100.2)
    assert drain(line) == [
        Unsolicited("+CREG: 1"),
        Unsolicited("RING"),
        Reply(('+CSIM: 4,"611F"',), Final(True)),
        Unsolicited("+CREG: 2"),
    ]
    assert line.deadline() is None


def test_an_error() -> None:
    line = asked()
    line.handle(Octets(b"\r\n+CME ERROR: 3\r\n"), 100.1)
    assert drain(line) == [Reply((), Final(False, 3, "+CME ERROR: 3"))]


def test_a_bare_number_only_where_it_is_an_answer() -> None:
    line = asked(Ask('AT+CCHO="A0000000871004"', "+CCHO:", bare=True))
    line.handle(Octets(b"\r\n2\r\n\r\nOK\r\n"), 100.1)
    assert drain(line) == [Reply(("2",), Final(True))]
    line = asked()
    line.handle(Octets(b"\r\n2\r\n\r\nOK\r\n"), 100.1)
    assert drain(line) == [Unsolicited("2"), Reply((), Final(True))]


def test_silence() -> None:
    line = asked()
    line.handle(Octets(b'\r\n+CSIM: 4,"611F"\r\n'), 104.9)
    line.handle(Tick(), 104.99)
    assert drain(line) == []
    line.handle(Tick(), 105.0)
    assert drain(line) == [Silence("did not answer within 5 s")]
    line.handle(Octets(b"OK\r\n"), 106.0)
    assert drain(line) == [Unsolicited("OK")], "too late"


def test_noise_of_a_wrong_speed_is_told() -> None:
    line = asked()
    line.handle(Octets((b"\xf8" * 5000 + b"\n") * 3), 101.0)
    line.handle(Tick(), 105.0)
    assert drain(line) == [Silence("did not answer within 5 s but sent 3 lines without end: is the speed right?")]


def test_a_port_that_never_stops_talking() -> None:
    line = asked()
    line.handle(Octets(b"blah\r\n" * (MAX_LINES + 1)), 101.0)
    assert drain(line)[-1] == Silence(f"sent {MAX_LINES} lines and no result: it is no AT port")
    assert line.deadline() is None


def test_one_at_a_time() -> None:
    with pytest.raises(ValueError, match="one AT command"):
        asked().handle(CSIM, 100.1)


def test_nothing_secret_is_shown() -> None:
    shown = repr(
        [Ask('AT+CPIN="73952"'), Write(b'AT+CPIN="73952"\r'), Reply(("73952",), Final(True)), Unsolicited("73952")]
    )
    assert "73952" not in shown


_STREAM = b'AT+CSIM=14,"00A40004023F00"\r\r\n+CREG: 1\r\n\r\n+CSIM: 4,"9000"\r\n\r\nOK\r\n'


@given(st.integers(0, len(_STREAM)), st.lists(st.binary(max_size=100), max_size=10))
def test_any_octets_end_in_a_reply_or_silence(cut: int, noise: list[bytes]) -> None:
    line = asked()
    line.handle(Octets(_STREAM[:cut]), 100.1)
    for piece in noise:
        line.handle(Octets(piece), 100.2)
    line.handle(Tick(), 105.0)
    ends = [output for output in drain(line) if isinstance(output, Reply | Silence)]
    assert len(ends) == 1 and line.deadline() is None
