"""The string that says where the card is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.config import CardConfig
from ue_agent.uicc.card import CardSpec
from ue_agent.uicc.pcsc import PcscBackend
from ue_agent.uicc.spec import CardSource, ModemSource, PcscSource, SoftwareSource, SpecError, open_backend, parse_spec


@pytest.mark.parametrize(
    ("text", "source", "full"),
    [
        ("", PcscSource(), "pcsc:"),
        ("pcsc:", PcscSource(), "pcsc:"),
        ("pcsc:ACR38 00 01", PcscSource("ACR38 00 01"), "pcsc:ACR38 00 01"),
        ("ACS ACR 38U-CCID 00 00", PcscSource("ACS ACR 38U-CCID 00 00"), "pcsc:ACS ACR 38U-CCID 00 00"),
        ("HID Global OMNIKEY: 3x21", PcscSource("HID Global OMNIKEY: 3x21"), "pcsc:HID Global OMNIKEY: 3x21"),
        ("pcsc:acr:1", PcscSource("acr:1"), "pcsc:acr:1"),
        ("modem:/dev/ttyUSB2", ModemSource(Path("/dev/ttyUSB2")), "modem:/dev/ttyUSB2"),
        ("modem:/dev/ttyS0?baud=9600", ModemSource(Path("/dev/ttyS0"), 9600), "modem:/dev/ttyS0?baud=9600"),
        ("software:/a b/card.toml", SoftwareSource(Path("/a b/card.toml")), "software:/a b/card.toml"),
    ],
)
def test_every_kind(text: str, source: CardSource, full: str) -> None:
    """X-CARDLAB: one seam, its back ends chosen by a string; a bare reader name stays what it was."""
    assert parse_spec(text) == source
    assert str(source) == full and parse_spec(full) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modem:", "the whole path, such as /dev/ttyUSB2"),
        ("modem:ttyUSB2", "the whole path"),
        ("modem:/dev/ttyUSB2?baud=12", "baud is one of 9600,"),
        ("modem:/dev/ttyUSB2?baud=", "baud is one of"),
        ("modem:/dev/ttyUSB2?baud=٩٦٠٠", "baud is one of"),
        ("modem:/dev/ttyUSB2?parity=even", "no setting 'parity', only baud"),
        ("modem:/dev/ttyUSB2?9600", r"behind the \? stands baud=RATE"),
        ("software:card.toml", "the whole path, such as /etc/imsbridge/card.toml"),
        ("qmi:/dev/cdc-wdm0", "no source of cards called 'qmi', but pcsc, modem, software; .* pcsc:qmi:/dev/cdc-wdm0"),
        ("a\nb", "one printable line"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    for parse in (parse_spec, CardSpec, lambda reader: CardConfig(reader=reader)):
        with pytest.raises(ValueError, match=message):
            parse(text)  # type: ignore[operator]


@given(st.text() | st.text().map("modem:/".__add__) | st.text().map("modem:/dev/x?".__add__))
def test_only_a_spec_error_escapes(text: str) -> None:
    try:
        source = parse_spec(text)
    except SpecError:
        return
    assert parse_spec(str(source)) == source


def test_the_back_end_of_a_reader() -> None:
    assert isinstance(open_backend(parse_spec("ACR")), PcscBackend)
