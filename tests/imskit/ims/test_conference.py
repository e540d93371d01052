"""Conference information documents: back and forth, one after the other, under noise (RFC 4575) [S7-IMS]."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.ims.conference import (
    MAXIMUM_SIZE,
    MAXIMUM_USERS,
    ConferenceInfo,
    ConferenceInfoError,
    ConferenceUser,
    Roster,
)

ALICE, BOB = ConferenceUser("sip:alice@x", "connected", "Alice"), ConferenceUser("sip:bob@x", "alerting")

RFC_EXAMPLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<conference-info xmlns="urn:ietf:params:xml:ns:conference-info"
  entity="sips:conf233@example.com" state="full" version="1">
 <conference-description><subject>Agenda: This month's goals</subject></conference-description>
 <conference-state><user-count>33</user-count></conference-state>
 <users>
  <user entity="sip:bob@example.com" state="full">
   <display-text>Bob Hoskins</display-text>
   <endpoint entity="sip:bob@pc33.example.com">
    <display-text>Bob's Laptop</display-text><status>disconnected</status>
   </endpoint>
  </user>
  <user entity="sip:alice@example.com" state="full">
   <display-text>Alice</display-text>
   <endpoint entity="sip:4kfk4j392jsu@example.com;grid=433kj4j3u"><status>connected</status></endpoint>
  </user>
 </users>
</conference-info>"""
"""After RFC 4575 section 6.4, shortened."""


def test_the_example_of_the_rfc() -> None:
    document = ConferenceInfo.parse(RFC_EXAMPLE)
    assert (document.entity, document.version, document.state) == ("sips:conf233@example.com", 1, "full")
    assert document.users == (
        ConferenceUser("sip:bob@example.com", "disconnected", "Bob Hoskins"),
        ConferenceUser("sip:alice@example.com", "connected", "Alice"),
    )


def test_what_is_written_is_read() -> None:
    document = ConferenceInfo("sip:c@x", 7, "partial", (ALICE, BOB, ConferenceUser("sip:<&>@x", "on-hold")))
    assert ConferenceInfo.parse(document.encode()) == document


def test_a_roster_follows_the_documents() -> None:
    roster = Roster()
    assert roster.take(ConferenceInfo("c", 1, "full", (ALICE, BOB))) == (ALICE, BOB)
    assert roster.take(ConferenceInfo("c", 1, "full", ())) == (ALICE, BOB), "the same version again"
    left = ConferenceUser("sip:alice@x", state="deleted")
    assert roster.take(ConferenceInfo("c", 2, "partial", (left,))) == (BOB,)
    gone = ConferenceUser("sip:bob@x", "disconnected")
    assert roster.take(ConferenceInfo("c", 3, "partial", (gone, ALICE))) == (ALICE,)
    assert roster.take(ConferenceInfo("c", 4, "deleted", (BOB,))) == ()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not well-formed"),
        (b"<x/>", "the root element is x"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + RFC_EXAMPLE[39:], "document type"),
        (RFC_EXAMPLE.replace(b'version="1">', b'version="-1">'), "is no number"),
        (RFC_EXAMPLE.replace(b'state="full" version', b'state="odd" version'), "state 'odd' is unknown"),
        (b"<a>" * 100_000, "bytes, more than"),
        (RFC_EXAMPLE.decode().encode("utf-16"), "has no place here"),
    ],
)
def test_documents_that_cannot_be_used(data: bytes, words: str) -> None:
    with pytest.raises(ConferenceInfoError, match=words):
        ConferenceInfo.parse(data)


def test_limits() -> None:
    users = tuple(ConferenceUser(f"sip:{n}@x") for n in range(MAXIMUM_USERS + 1))
    with pytest.raises(ConferenceInfoError, match="257 users"):
        ConferenceInfo.parse(ConferenceInfo("c", 1, "full", users).encode())
    with pytest.raises(ConferenceInfoError, match="more than"):
        ConferenceInfo.parse(b" " * (MAXIMUM_SIZE + 1))


@given(st.integers(0, len(RFC_EXAMPLE)), st.binary(max_size=60), st.integers(0, len(RFC_EXAMPLE)))
def test_noise_ends_in_one_exception(at: int, noise: bytes, rest: int) -> None:
    with contextlib.suppress(ConferenceInfoError):
        ConferenceInfo.parse(RFC_EXAMPLE[:at] + noise + RFC_EXAMPLE[rest:])
