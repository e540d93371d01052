"""What a P-CSCF does with REGISTER and its answer, at Gm as at W2 (TS 24.229 clause 5.2.2)."""

from __future__ import annotations

from collections.abc import Iterable

from imskit.sip.wire.auth import Challenge
from imskit.sip.wire.ims_headers import PChargingVector
from imskit.sip.wire.message import Message, Response
from imskit.sip.wire.uri import parse_uri, uri_equal


def without_keys(response: Response) -> list[Challenge]:
    """Take ik and ck out of challenges: no UE is told them (clause 5.2.2.1).

    Returns the challenges as they came.  Raises ``SipParseError`` for one that cannot be read.
    """
    values = response.headers.get_all("WWW-Authenticate")
    challenges = [Challenge.parse(value, "WWW-Authenticate") for value in values]
    response.headers.remove("WWW-Authenticate")
    for challenge in challenges:
        response.headers.add("WWW-Authenticate", challenge.without("ik", "ck"))
    return challenges


def granted_seconds(response: Response, contacts: Iterable[str]) -> int:
    """Return the longest time that the registrar gave to one of these contacts, 0 if to none.

    Raises ``SipParseError`` for what cannot be read.
    """
    wanted = [parse_uri(contact, "Contact") for contact in contacts]
    longest = 0
    for address in response.contacts if response.contacts != "*" else []:
        if any(uri_equal(address.uri, uri) for uri in wanted):
            seconds = address.expires if address.expires is not None else response.expires or 0
            longest = max(longest, seconds)
    return longest


def charge(message: Message, icid: str, network: str) -> None:
    """Put in the charging vector of something that begins here: the first IMS entity makes it (clause 4.5.2).

    ``icid`` is a new identifier, unguessable; ``network`` the name of this network.
    """
    message.headers.set("P-Charging-Vector", PChargingVector.of(icid, orig_ioi=f"Type 1{network}"))
