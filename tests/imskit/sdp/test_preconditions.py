"""Precondition tables: RFC 3312, RFC 4032, the values of TS 34.229-1 cases 12.13a and 15.21, row by row."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sdp.attributes import Direction
from imskit.sdp.description import Line, MediaDescription, SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.preconditions import (
    Preconditions,
    Segment,
    Strength,
    after_answer,
    answer,
    failure,
    first_offer,
    offer,
    read,
    write,
)

type Sample = Callable[[str], SessionDescription]


def media(*attributes: str, port: int = 50000) -> MediaDescription:
    return MediaDescription(
        "audio", port, "RTP/AVP", ["0"], [Line("a", value, 7 + index) for index, value in enumerate(attributes)]
    )


def lines(table: Preconditions) -> list[str]:
    section = media()
    write(section, table)
    return [line.value for line in section.lines]


MO_OFFER = [
    "curr:qos local none",
    "curr:qos remote none",
    "des:qos mandatory local sendrecv",
    "des:qos optional remote sendrecv",
]
MT_OFFER_RESERVED = ["curr:qos local sendrecv", *MO_OFFER[1:]]
ANSWER_NOTHING_RESERVED = [
    "curr:qos local none",
    "curr:qos remote none",
    "des:qos mandatory local sendrecv",
    "des:qos mandatory remote sendrecv",
    "conf:qos remote sendrecv",
]


def test_mo_offer_with_nothing_reserved() -> None:
    assert lines(first_offer(False)) == MO_OFFER
    assert lines(first_offer(True)) == MT_OFFER_RESERVED
    assert first_offer(True).mandatory


def test_183_of_the_network_side() -> None:
    peer = read(media(*MO_OFFER))
    assert peer is not None
    assert lines(answer(peer, False)) == ANSWER_NOTHING_RESERVED
    assert not answer(peer, True).met  # the caller has not reserved: no alerting yet


@pytest.mark.parametrize("reserved", [False, True])
def test_183_to_a_caller_that_has_reserved(reserved: bool) -> None:
    peer = read(media(*MT_OFFER_RESERVED))
    assert peer is not None
    table = answer(peer, reserved)
    assert lines(table) == [
        f"curr:qos local {'sendrecv' if reserved else 'none'}",
        "curr:qos remote sendrecv",
        "des:qos mandatory local sendrecv",
        "des:qos mandatory remote sendrecv",
    ]
    assert table.met == reserved


def test_the_whole_ladder() -> None:
    """INVITE, 183, UPDATE, 200 as both sides see it: TS 34.229-5 case 7.4."""
    caller = first_offer(False)
    seen = read(media(*lines(caller)))
    assert seen is not None
    callee = answer(seen, False)
    got = read(media(*lines(callee)))
    assert got is not None
    caller = after_answer(got, False)
    assert caller.confirm_local is Direction.SENDRECV  # the callee wants an offer once we have resources
    assert not caller.met
    update = offer(caller, True)
    assert lines(update) == [
        "curr:qos local sendrecv",
        "curr:qos remote none",
        "des:qos mandatory local sendrecv",
        "des:qos mandatory remote sendrecv",
    ]
    seen = read(media(*lines(update)))
    assert seen is not None
    callee = answer(seen, True)
    assert callee.met
    assert lines(callee) == [
        "curr:qos local sendrecv",
        "curr:qos remote sendrecv",
        "des:qos mandatory local sendrecv",
        "des:qos mandatory remote sendrecv",
    ]
    got = read(media(*lines(callee)))
    assert got is not None
    caller = after_answer(got, True)
    assert caller.met
    # Hold later says that both are there, or the peer would take the precondition for open again (TS 24.610 A.1.3).
    assert lines(offer(caller, True))[:2] == ["curr:qos local sendrecv", "curr:qos remote sendrecv"]


def test_an_answer_takes_back_what_the_offer_says_of_us() -> None:
    """RFC 4032 section 4.1: the answerer downgrades a status that it knows better."""
    peer = read(media("curr:qos local sendrecv", "curr:qos remote sendrecv", *MO_OFFER[2:]))
    assert peer is not None
    table = answer(peer, False)
    assert table.local.current is Direction.INACTIVE
    assert table.remote.current is Direction.SENDRECV


def test_none_may_be_upgraded() -> None:
    """RFC 3312 section 5.2: an offer that wants nothing of the remote side is answered mandatory."""
    peer = read(
        media(
            "curr:qos local none",
            "curr:qos remote none",
            "des:qos mandatory local sendrecv",
            "des:qos none remote sendrecv",
        )
    )
    assert peer is not None
    assert answer(peer, False).local.send is Strength.MANDATORY


def test_directions_are_inverted() -> None:
    """RFC 3312 table 4: send and recv, local and remote change places."""
    table = read(
        media(
            "curr:qos local send",
            "curr:qos remote none",
            "des:qos mandatory local send",
            "des:qos optional local recv",
            "des:qos none remote sendrecv",
            "conf:qos remote recv",
        )
    )
    assert table == Preconditions(
        Segment(Direction.SENDONLY, Strength.MANDATORY, Strength.OPTIONAL),
        Segment(),
        confirm_remote=Direction.RECVONLY,
    )
    assert table.local.met
    assert table.inverted == Preconditions(
        Segment(),
        Segment(Direction.RECVONLY, Strength.OPTIONAL, Strength.MANDATORY),
        confirm_local=Direction.SENDONLY,
    )
    assert lines(table) == [
        "curr:qos local send",
        "curr:qos remote none",
        "des:qos mandatory local send",
        "des:qos optional local recv",
        "des:qos none remote sendrecv",
        "conf:qos remote recv",
    ]


strengths = st.sampled_from(Strength)
directions = st.sampled_from(Direction)
segments = st.builds(Segment, directions, strengths, strengths)
tables = st.builds(Preconditions, segments, segments, directions, directions)


@given(tables)
def test_written_as_read(table: Preconditions) -> None:
    assert read(media(*lines(table))) == table
    assert table.inverted.inverted == table
    assert table.inverted.met == table.met


@given(tables, st.booleans())
def test_an_answer_never_weakens(table: Preconditions, reserved: bool) -> None:
    ours, theirs = answer(table, reserved), table.inverted
    for after, before in ((ours.local, theirs.local), (ours.remote, theirs.remote)):
        assert after.send >= before.send and after.receive >= before.receive
    assert (ours.local.current is Direction.SENDRECV) == reserved


def test_writing_replaces() -> None:
    section = media(*MO_OFFER, "sendrecv")
    write(section, answer(first_offer(True), True))
    assert section.lines[0].value == "sendrecv"
    assert len(section.attributes("curr")) == 2


def test_no_preconditions() -> None:
    assert read(media("sendrecv")) is None
    assert read(media(*MO_OFFER, port=0)) is None  # RFC 3312 section 8.1
    assert read(media("curr:qos e2e none", "des:qos optional e2e sendrecv")) is None


@pytest.mark.parametrize(
    "attribute",
    ["des:qos mandatory e2e sendrecv", "des:sec mandatory e2e sendrecv", "des:foo mandatory remote sendrecv"],
)
def test_what_cannot_be_met_is_580(attribute: str) -> None:
    """RFC 3312 sections 8 and 9."""
    with pytest.raises(SdpError) as caught:
        read(media(*MO_OFFER, attribute))
    assert caught.value.status == 580


def test_unknown_local_or_optional_types_do_not_concern_us() -> None:
    """RFC 3312 section 9."""
    found = read(
        media(*MO_OFFER, "des:foo mandatory local sendrecv", "des:foo optional e2e send", "curr:foo local none")
    )
    assert found == read(media(*MO_OFFER))


@pytest.mark.parametrize(
    "attribute",
    [
        "curr:qos",
        "curr:qos local maybe",
        "curr:qos here none",
        "des:qos must local send",
        "des:qos mandatory local",
        "conf:qos remote",
    ],
)
def test_malformed(attribute: str) -> None:
    with pytest.raises(SdpError) as caught:
        read(media("sendrecv", attribute))
    assert (caught.value.status, caught.value.line) == (400, 8)


def test_failure_description(sample: Sample) -> None:
    """RFC 3312 section 8: a line for each of the offer's, at port 0, the failed states named."""
    description = sample("conformance_mt_offer")
    peer = read(description.media[0])
    assert peer is not None
    answered = failure(description, answer(peer, False))
    (line,) = answered.media
    assert line.port == 0
    assert line.attributes("des") == ["qos failure local sendrecv"]
    assert SessionDescription.parse(answered.encode()).encode() == answered.encode()
