"""reginfo documents: RFC 3680 and TS 24.229 5.1.1.6."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ims.reginfo import MAXIMUM_SIZE, RegContact, RegInfo, RegInfoError, Registration

RFC3680_EXAMPLE = b"""<?xml version="1.0"?>
     <reginfo xmlns="urn:ietf:params:xml:ns:reginfo"
         xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
                  version="0" state="full">
       <registration aor="sip:user@example.com" id="as9"
                     state="active">
         <contact id="76" state="active" event="registered"
                  duration-registered="7322"
                  q="0.8">
                <uri>sip:user@pc887.example.com</uri>
         </contact>
         <contact id="77" state="terminated" event="expired"
                  duration-registered="3600"
                  q="0.5">
                <uri>sip:user@university.edu</uri>
         </contact>
       </registration>
     </reginfo>"""


def test_the_example_of_rfc3680_section_5() -> None:
    document = RegInfo.parse(RFC3680_EXAMPLE)
    assert (document.version, document.full) == (0, True)
    (registration,) = document.registrations
    assert registration.aor == "sip:user@example.com"
    assert [(c.uri, c.state, c.event) for c in registration.contacts] == [
        ("sip:user@pc887.example.com", "active", "registered"),
        ("sip:user@university.edu", "terminated", "expired"),
    ]


def test_round_trip() -> None:
    contact = RegContact("sip:a@[2001:db8::1]:5060;x=<&>", "terminated", "probation", "c", 0, 30)
    document = RegInfo(7, False, (Registration("sip:a@b", "terminated", (contact,), "r"),))
    assert RegInfo.parse(document.encode()) == document


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not well-formed"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><reginfo/>', "document type"),
        (b"<reginfo/>", "root element"),
        (b'<reginfo xmlns="urn:ietf:params:xml:ns:reginfo"/>', "version is missing"),
        (b'<reginfo xmlns="urn:ietf:params:xml:ns:reginfo" version="-1"/>', "no number"),
        (RFC3680_EXAMPLE.replace(b'state="active">', b'state="odd">', 1), "state odd"),
        (b" " * (MAXIMUM_SIZE + 1), "more than"),
    ],
)
def test_bad_documents_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(RegInfoError, match=message):
        RegInfo.parse(data)


@given(st.integers(0, len(RFC3680_EXAMPLE)), st.binary(max_size=60))
def test_noise_ends_in_one_error(cut: int, noise: bytes) -> None:
    try:
        RegInfo.parse(RFC3680_EXAMPLE[:cut] + noise + RFC3680_EXAMPLE[cut:])
    except RegInfoError as error:
        assert str(error).startswith("reginfo:")
