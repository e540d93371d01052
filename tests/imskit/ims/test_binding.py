"""Several public identities at one contact (TS 24.229 clauses 5.1.1.2.1, 5.1.1.4, 5.1.1.7; TS 34.229-1 C.2)."""

from __future__ import annotations

import itertools

import pytest

from imskit.ims.binding import Bindings
from imskit.ims.gm_path import GmPath
from imskit.ims.profile import UeProfile
from imskit.ims.registration_notice import Notice
from imskit.secrets import Identity
from imskit.sip.wire.flow import Target

FIRST, SECOND, THIRD = (Identity(f"sip:+1555010{n}@ims.example") for n in range(3))
TEL = Identity("tel:+15550100")
TARGET = Target("UDP", ("10.45.0.1", 5060))
PROFILE = UeProfile(
    Identity("1@ims.example"),
    FIRST,
    "ims.example",
    "urn:gsma:imei:35693803-564380-0",
    ("10.45.0.2", 5060),
    (TARGET,),
    "IEEE-802.11ac",
    more_impus=(SECOND, THIRD),
)


def bindings() -> Bindings:
    numbers = itertools.count(1)
    return Bindings(PROFILE, lambda n: f"{next(numbers):0{n}x}"[:n])


@pytest.mark.parametrize(("granted", "due"), [(120, 60), (1200, 600), (1201, 601), (1800, 1200), (600_000, 599_400)])
def test_8_2_when_a_refresh_is_due(granted: int, due: int) -> None:
    """600 s before the end, or at half of it where it is not above 1200 s."""
    all_of_them = bindings()
    all_of_them.primary.accepted(granted, (FIRST,), 1000.0)
    assert all_of_them.primary.expires_at == 1000 + granted
    assert all_of_them.due(1000.0 + due - 0.1) is None
    assert all_of_them.due(1000.0 + due) is all_of_them.primary


def test_identities_of_the_card_that_come_with_the_first_need_no_registration() -> None:
    found = bindings()
    found.primary.accepted(600, (FIRST, TEL, SECOND), 0.0)
    found.add_missing(0.0)
    assert [binding.impu for binding in found] == [FIRST, THIRD]
    assert found.due(0.0) is not None
    assert found.associated() == (FIRST, TEL, SECOND)
    (_, third) = found
    third.accepted(600, (THIRD, TEL), 0.0)
    found.add_missing(0.0)
    assert len(list(found)) == 2
    assert found.associated() == (FIRST, TEL, SECOND, THIRD)
    assert found.next_to_leave() is third
    third.expires_at = None
    assert found.next_to_leave() is found.primary
    assert THIRD not in found.associated()


def test_the_network_adds_and_takes_identities() -> None:
    found = bindings()
    found.primary.accepted(600, (FIRST, TEL), 0.0)
    wildcard, junk = Identity("sip:!.*!@ims.example"), Identity("x")
    found.obey(Notice((THIRD, wildcard, junk, FIRST), (TEL,), None, None))
    assert found.associated() == (FIRST, THIRD)


def test_no_network_fills_the_memory() -> None:
    found = bindings()
    crowd = tuple(Identity(f"sip:{n}@ims.example") for n in range(5000))
    found.primary.accepted(600, crowd[:50], 0.0)
    found.obey(Notice(crowd, (), None, None))
    assert len(found.associated()) == 100
    found.primary.accepted(600, crowd, 0.0)
    assert len(found.associated()) == 100
    found.obey(Notice((), crowd, None, None))
    assert found.associated() == ()


def test_a_new_registration_has_a_new_call_id_and_begins_to_count_anew() -> None:
    found = bindings()
    old = found.primary
    path = GmPath(TARGET, PROFILE.local)
    kwargs = {"expires": 600, "authorization": "Digest x=y", "security_client": (), "outbound": False}
    first = old.register(PROFILE, path, **kwargs)  # type: ignore[arg-type]
    again = old.register(PROFILE, path, **kwargs)  # type: ignore[arg-type]
    assert again.call_id == first.call_id
    assert again.cseq.number == first.cseq.number + 1
    new = found.renew().register(PROFILE, path, **kwargs)  # type: ignore[arg-type]
    assert new.call_id != first.call_id
    assert new.from_.tag != first.from_.tag
    assert "P-Access-Network-Info" not in new.headers
    assert new.headers.get("Supported") == "path, gruu"


def test_over_tls_the_cell_may_be_named_and_outbound_is_asked_for() -> None:
    path = GmPath(Target("TLS", ("10.45.0.1", 5061)), PROFILE.local)
    request = bindings().primary.register(
        PROFILE, path, expires=600, authorization="Digest x=y", security_client=(), outbound=True
    )
    assert request.headers.get("P-Access-Network-Info") == "IEEE-802.11ac"
    assert "outbound" in (request.headers.get("Supported") or "")
    assert ";reg-id=1" in (request.headers.get("Contact") or "")
    assert "Require" not in request.headers
