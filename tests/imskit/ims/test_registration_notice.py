"""What a reg-event notification means for this device (TS 24.229 clauses 5.1.1.6 and 5.1.1.7, RFC 3680, RFC 5628)."""

from __future__ import annotations

import pytest

from imskit.ims.reginfo import RegContact, RegInfo, Registration
from imskit.ims.registration_notice import identity_key, read
from imskit.secrets import Identity
from imskit.sip.wire.uri import SipUri, parse_uri

OURS = parse_uri("sip:10.45.0.2:40001")
assert isinstance(OURS, SipUri)
FIRST, TEL, OTHER = Identity("sip:+15550100@ims.example"), Identity("tel:+15550100"), Identity("sip:b@ims.example")


def contact(state: str, event: str, uri: str = "sip:10.45.0.2:40001;transport=udp", **more: object) -> RegContact:
    return RegContact(uri, "active" if state == "active" else "terminated", event, **more)  # type: ignore[arg-type]


def document(*aors: tuple[Identity, RegContact], full: bool = True) -> RegInfo:
    return RegInfo(1, full, tuple(Registration(str(aor), each.state, (each,)) for aor, each in aors))


def test_the_whole_registration_is_over() -> None:
    gone = contact("terminated", "deactivated")
    notice = read(document((FIRST, gone), (TEL, gone)), OURS, (FIRST, TEL), FIRST)
    assert notice.ended == gone
    assert notice.gone == (FIRST, TEL)


def test_one_identity_of_several_is_taken() -> None:
    notice = read(
        document((FIRST, contact("active", "registered")), (TEL, contact("terminated", "unregistered"))),
        OURS,
        (FIRST, TEL),
        FIRST,
    )
    assert notice.ended is None
    assert notice.active == (FIRST,)
    assert notice.gone == (TEL,)


def test_a_partial_document_that_ends_a_further_identity_leaves_the_first() -> None:
    gone = contact("terminated", "rejected")
    assert read(document((TEL, gone), full=False), OURS, (FIRST, TEL), FIRST).ended is None
    assert read(document((FIRST, gone), full=False), OURS, (FIRST, TEL), FIRST).ended == gone
    assert read(document((TEL, gone), full=False), OURS, (TEL,), FIRST).ended == gone, "none is left"


def test_other_devices_contacts_and_what_is_no_uri_mean_nothing() -> None:
    notice = read(
        document(
            (FIRST, contact("terminated", "rejected", "sip:10.45.0.3:40001")),
            (TEL, contact("terminated", "rejected", "no uri")),
        ),
        OURS,
        (FIRST, TEL),
        FIRST,
    )
    assert (notice.active, notice.gone, notice.ended) == ((), (), None)


def test_a_shortened_registration_and_its_gruus() -> None:
    each = contact("active", "shortened", expires=60, public_gruu="sip:a@b;gr=1", temporary_gruu="sip:t@b;gr")
    notice = read(document((FIRST, each)), OURS, (FIRST,), FIRST)
    assert (notice.shortened, notice.public_gruu, notice.temporary_gruu) == (60, "sip:a@b;gr=1", "sip:t@b;gr")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:+15550100@ims.example", "sip:+15550100@IMS.EXAMPLE", True),
        ("tel:+15550100", "TEL:+15550100", True),
        ("sip:a@ims.example", "sip:b@ims.example", False),
        ("sip:a@ims.example", "tel:+1", False),
        ("tel:+1-555-0100", "tel:+15550100;x=y", True),
        ("sip:+1%35550100@ims.example;user=phone", "sip:+15550100@ims.example", True),
        ("x", "x", True),
        ("x", "sip:a@b", False),
    ],
)
def test_same_identity(one: str, other: str, same: bool) -> None:
    assert (identity_key(Identity(one)) == identity_key(Identity(other))) is same
