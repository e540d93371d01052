"""Texts on cards (TS 31.101 annex A) and other contents in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ue_agent.card_bench.contents import alpha_identifier, decode_spn, in_words, octets


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"Lab Mobile\xff\xff", "Lab Mobile"),
        (b"\xff\xff", None),
        (b"", None),
        (b"\x80\x04\x1c\x04\x22\x04\x21\xff\xff", "МТС"),
        (b"\x81\x03\x08\x9c\xa2\xa1\xff", "МТС"),
        (b"\x82\x03\x04\x00\x9c\x22A", '\u041c"A'),
        (b"\x81", None),
        (b"a\x1b[2Jb", "a?[2Jb"),
    ],
)
def test_alpha_identifier(value: bytes, text: str | None) -> None:
    assert alpha_identifier(value) == text


def test_spn() -> None:
    assert decode_spn(b"\x01Lab" + b"\xff" * 13) == "Lab"
    assert decode_spn(b"\xff" * 17) is None
    assert decode_spn(b"") is None


def test_in_words() -> None:
    assert in_words("EF_AD", b"\0\0\0") == "does not say how long the MNC is"
    assert in_words("EF_DIR", bytes.fromhex("61094F07A0000000871002") + b"\xff") == "USIM"
    assert in_words("EF_UST", b"\0") == "no services"
    assert in_words("EF_X", b"\1") == "1 octet" == octets(1)


@given(
    st.sampled_from(["EF_ICCID", "EF_IMSI", "EF_P-CSCF", "EF_SPN", "EF_DIR", "EF_AD", "EF_UST", "EF_IMPU", "EF_X"]),
    st.binary(max_size=60),
)
def test_any_content(name: str, content: bytes) -> None:
    assert in_words(name, content)
