"""Which way to the card, with a modem that is a script: what the emulated one does not do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.uicc.engine.at_line import Ask, Reply
from ue_agent.uicc.engine.modem_card import Channel, ModemCard, close_channel, greet, sim_state
from ue_agent.uicc.errors import (
    AtError,
    CardRemovedError,
    CardUnresponsiveError,
    PinBlockedError,
    PinRequiredError,
    UiccError,
)
from ue_agent.uicc.wire.at import SimState, final_result

SELECT_MF = bytes.fromhex("00A40004023F00")


class Script:
    """Answers commands by the first pattern that fits; notes them."""

    def __init__(self, *rules: tuple[str, str | list[str]]) -> None:
        self.rules = rules
        self.asked: list[str] = []

    def __call__(self, ask: Ask) -> Reply:
        self.asked.append(ask.command)
        for pattern, said in self.rules:
            if re.fullmatch(pattern, ask.command):
                *lines, last = [said] if isinstance(said, str) else said
                final = final_result(last)
                assert final is not None
                return Reply(tuple(lines), final)
        raise CardUnresponsiveError(f"no answer to {ask.command}")


def opened(*rules: tuple[str, str | list[str]]) -> tuple[ModemCard, Script]:
    script = Script(*rules)
    card = ModemCard(script, 5.0)
    card.open()
    return card, script


@pytest.mark.parametrize(
    ("session", "first"),
    [("1", "01"), ("3", "03"), ("4", "40"), ("19", "4F"), ("20", "00"), ("255", "00"), ("0", "00")],
)
def test_the_channels_number_in_cla(session: str, first: str) -> None:
    """TS 102 221 clause 10.1.1; a session that is no channel is the modem's to translate."""
    card, script = opened((r"AT\+CCHO=.*", [session, "OK"]), (r"AT\+CGLA=.*", ['+CGLA: 4,"9000"', "OK"]))
    card.transmit(bytes.fromhex("00B0000001"))
    assert script.asked[-1] == f'AT+CGLA={session},10,"{first}B0000001"'


def test_a_session_whose_number_is_no_channel_of_the_card() -> None:
    """The card does not know channel 2: from then on CLA is left to the modem."""
    card, script = opened(
        (r"AT\+CCHO=.*", ["2", "OK"]),
        (r'AT\+CGLA=2,\d+,"02.*', ['+CGLA: 4,"6881"', "OK"]),
        (r'AT\+CGLA=2,\d+,"00.*', ['+CGLA: 4,"611F"', "OK"]),
    )
    assert card.transmit(SELECT_MF) == (b"", 0x611F)
    assert card.transmit(SELECT_MF) == (b"", 0x611F)
    assert [command[10:15] for command in script.asked if "CGLA" in command] == ['14,"0'] * 3
    assert sum('"02' in command for command in script.asked) == 1


def test_refused_after_it_has_worked_nothing_is_repeated_elsewhere() -> None:
    """AUTHENTICATE may have reached the card: to send it again would spend its sequence number."""
    card, script = opened(
        (r"AT\+CCHO=.*", ["1", "OK"]),
        (r"AT\+CGLA=1,14,.*", ['+CGLA: 4,"611F"', "OK"]),
        (r"AT\+CGLA=.*", "+CME ERROR: 3"),
    )
    card.transmit(SELECT_MF)
    with pytest.raises(CardUnresponsiveError, match=r"does not pass the command on .*3 \(operation not allowed\)"):
        card.transmit(bytes.fromhex("00880081") + b"\x22" + bytes(34))
    assert sum("8800" in command for command in script.asked) == 1 and not any("CSIM" in c for c in script.asked)


def test_select_without_le_is_asked_again_with_it() -> None:
    """A T=1 card answers a SELECT without Le with nothing."""
    card, _ = opened(
        (r"AT\+CCHO=.*", ["1", "OK"]),
        (r"AT\+CGLA=1,14,.*", ['+CGLA: 4,"9000"', "OK"]),
        (r'AT\+CGLA=1,16,.*3F0000"', ['+CGLA: 8,"62009000"', "OK"]),
    )
    assert card.transmit(SELECT_MF) == (b"\x62\x00", 0x9000)
    assert not card.t0


def test_manage_channel_whose_answer_has_to_be_fetched() -> None:
    card, script = opened(
        (r"AT\+CCHO=.*", "ERROR"),
        (r'AT\+CSIM=10,"0070000001"', ['+CSIM: 4,"6101"', "OK"]),
        (r'AT\+CSIM=10,"00C0000001"', ['+CSIM: 6,"029000"', "OK"]),
        (r'AT\+CSIM=10,"0070800200"', ['+CSIM: 4,"9000"', "OK"]),
        (r'AT\+CSIM=14,"02A.*', ['+CSIM: 4,"611F"', "OK"]),
    )
    assert str(card) == "AT+CSIM, logical channel 2"
    assert card.transmit(SELECT_MF) == (b"", 0x611F)
    card.close()
    assert script.asked[-1] == 'AT+CSIM=10,"0070800200"'


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ("+CME ERROR: 10", CardRemovedError, "taken out of the modem"),
        ("+CME ERROR: SIM PUK required", PinBlockedError, "PUK"),
        ("+CME ERROR: 14", CardUnresponsiveError, "14 .SIM busy"),
        (["OK"], AtError, r"OK but without \+CSIM:"),
        (['+CSIM: 4,"6A8', "OK"], AtError, "announced 4 characters and sent 3"),
    ],
)
def test_errors_on_the_way(said: str | list[str], error: type[UiccError], message: str) -> None:
    card, script = opened((r"AT\+CCHO=.*", "ERROR"), (r".*0070000001.", ['+CSIM: 4,"6881"', "OK"]))
    script.rules = ((r"AT\+CSIM=.*", said),)
    with pytest.raises(error, match=message):
        card.transmit(SELECT_MF)


def test_a_locked_modem_verifies_only_as_the_agent_asks() -> None:
    """Two tries left: the query costs nothing; AT+CPIN is sent once, for the PIN that was handed over."""
    card, script = opened(
        (r"AT\+CCHO=.*", "+CME ERROR: 11"),
        (r"AT\+CSIM=.*", "+CME ERROR: 11"),
        (r"AT\+CPIN\?", ["+CPIN: SIM PIN", "OK"]),
        (r"AT\+CPINR=.*", ["+CPINR: SIM PIN,2,3", "OK"]),
        (r"AT\+CPIN=.*", "+CME ERROR: 16"),
    )
    assert str(card) == "the modem wants its PIN first"
    assert card.transmit(SELECT_MF) == (b"", 0x6982)
    assert card.transmit(bytes.fromhex("0020000100")) == (b"", 0x63C2)
    assert not any(command.startswith("AT+CPIN=") for command in script.asked)
    assert card.transmit(bytes.fromhex("0020000108") + b"1234\xff\xff\xff\xff") == (b"", 0x63C2)
    assert script.asked.count('AT+CPIN="1234"') == 1
    script.rules = ((r"AT\+CPIN\?", ["+CPIN: SIM PIN", "OK"]), (r"AT\+CPINR=.*", ["+CPINR: SIM PIN,1,3", "OK"]))
    assert card.transmit(bytes.fromhex("0020000108") + b"1234\xff\xff\xff\xff") == (b"", 0x63C1), "not sent"
    script.rules = ((r"AT\+CPIN\?", ["+CPIN: SIM PUK", "OK"]),)
    assert card.transmit(bytes.fromhex("0020000100")) == (b"", 0x63C0)
    script.rules = ((r"AT\+CPIN\?", ["+CPIN: SIM PIN", "OK"]), (r"AT\+CPINR=.*", "ERROR"))
    with pytest.raises(PinRequiredError, match="none is risked"):
        card.transmit(bytes.fromhex("0020000108") + b"1234\xff\xff\xff\xff")


def test_a_pin_cannot_carry_another_command() -> None:
    card, script = opened(
        (r"AT\+C(CHO|SIM)=.*", "+CME ERROR: 11"),
        (r"AT\+CPIN\?", ["+CPIN: SIM PIN", "OK"]),
        (r"AT\+CPINR=.*", ["+CPINR: SIM PIN,3,3", "OK"]),
    )
    assert card.transmit(bytes.fromhex("0020000108") + b'1";H0;"1') == (b"", 0x6A80)
    assert not any("H0" in command for command in script.asked)


def test_greeting() -> None:
    silent = Script()
    with pytest.raises(CardUnresponsiveError):
        greet(silent, 5.0)
    assert silent.asked == ["AT"] * 3
    script = Script(("AT", "OK"), ("ATE0", "ERROR"), (r"AT\+CMEE=1", "ERROR"))
    greet(script, 5.0)
    assert script.asked == ["AT", "ATE0", "AT+CMEE=1"], "a modem that refuses these can be used too"


def test_the_sim_state_without_its_line() -> None:
    with pytest.raises(AtError, match="OK alone"):
        sim_state(Script((r"AT\+CPIN\?", "OK")), 5.0)
    assert sim_state(Script((r"AT\+CPIN\?", ["+CPIN: SIM PIN", "+CPIN: READY", "OK"])), 5.0) is SimState.READY


@pytest.mark.parametrize("text", ["session 1", "channel 19", "session 101"])
def test_the_note_of_a_channel(text: str) -> None:
    channel = Channel.parse(text + "\n")
    assert channel is not None and str(channel) == text


@pytest.mark.parametrize("text", ["", "basic 0", "session", "session x", "session -1", "channel 1;H0", "session ١"])
def test_no_note_of_a_channel(text: str) -> None:
    assert Channel.parse(text) is None


def test_closing_what_is_closed_is_no_error() -> None:
    script = Script((r"AT\+CCHC=.*", "+CME ERROR: 21"))
    close_channel(script, Channel("session", 3), 5.0)
    close_channel(script, Channel("basic"), 5.0)
    assert script.asked == ["AT+CCHC=3"]


_SAID = st.one_of(
    st.sampled_from(["OK", "ERROR", "+CME ERROR: 11", "+CME ERROR: 3", "+CME ERROR: 10", "+CMS ERROR: 1"]),
)
_LINES = st.lists(
    st.one_of(
        st.sampled_from(["1", "+CCHO: 2", '+CSIM: 4,"9000"', '+CGLA: 4,"6881"', '+CSIM: 4,"61FF"']),
        st.text(max_size=30),
    ),
    max_size=3,
)


@given(st.lists(st.tuples(_LINES, _SAID), min_size=1, max_size=12), st.binary(min_size=5, max_size=20))
def test_whatever_a_modem_says_ends_in_an_answer_or_an_error(said: list[tuple[list[str], str]], apdu: bytes) -> None:
    count = 0

    def exchange(ask: Ask) -> Reply:
        nonlocal count
        count += 1
        assert count < 30, "without end"
        lines, last = said[count % len(said)]
        final = final_result(last)
        assert final is not None
        return Reply(tuple(lines), final)

    card = ModemCard(exchange, 5.0)
    try:
        card.open()
        card.transmit(apdu)
    except UiccError:
        pass
