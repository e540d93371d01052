"""Public identities: which are the same, which a registration may use."""

from __future__ import annotations

import re
from collections.abc import Collection

from imskit.ims.public_identities import key_of
from imskit.secrets import Identity
from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import OtherUri, SipUri, TelUri, Uri

NETWORK_PARAMETERS = ("cpc", "oli", "iotl")
"""URI parameters that only the network may set (TS 24.229 clauses 4.4 and 7.2A.12)."""


def usable(registered: Uri, asserted: tuple[Identity, ...] | None, response: Response) -> tuple[Identity, ...]:
    """Return the identities of a registration, the default first.

    ``registered`` is the To of the REGISTER, ``response`` its 200 with P-Associated-URI.  ``asserted`` are those of an
    access token: no other may be used, since a whole pool may share one private identity (TS 24.371 scenario 3).
    """
    associated = response.headers.elements("P-Associated-URI")
    plain: dict[str, Identity] = {}
    wild: list[str] = []
    for value in associated:
        inside = value[value.find("<") + 1 : value.rfind(">")] if "<" in value else value.partition(";")[0].strip()
        if inside.count("!") >= 2:
            wild.append(inside)
        else:
            plain.setdefault(key_of(inside), Identity(inside))
    own = key_of(registered)
    if asserted is None:
        return tuple(plain.values()) or (Identity(str(registered)),)
    claimed = {key_of(each): each for each in asserted}
    found = {key: identity for key, identity in plain.items() if key in claimed}
    for key, identity in claimed.items():
        if key == own or any(_in_range(key, each) for each in wild):
            found.setdefault(key, identity)
    return tuple(found.values())


def _in_range(identity: str, wildcard: str) -> bool:
    """Whether an identity that token and core both vouch for lies in a wildcarded one (TS 23.003 clause 13.5).

    Only what stands around the regular expression is compared: the expression itself is the HSS's to evaluate.
    """
    prefix, _, rest = wildcard.partition("!")
    suffix = rest.rpartition("!")[2].lower()
    return len(identity) >= len(prefix) + len(suffix) and identity.startswith(prefix) and identity.endswith(suffix)


def anonymous(uri: Uri) -> bool:
    """Whether a From tells nobody who it is (RFC 3323 section 4.1.1.3)."""
    return isinstance(uri, SipUri) and uri.host.lower() == "anonymous.invalid"


def is_emergency(uri: Uri, home_domain: str, numbers: Collection[str]) -> bool:
    """Whether a request is for an emergency service: its URN (RFC 5031), or what people here dial for help."""
    if isinstance(uri, OtherUri):
        return re.match(r"urn:service:sos(\.|$)", str(uri).lower()) is not None
    if isinstance(uri, SipUri):
        dialled = uri.host.lower() == home_domain.lower() or uri.parameters.get("user") == "phone"
        return dialled and re.sub(r"[-.() ]", "", (uri.user or "").partition(";")[0]) in numbers
    return uri.digits in numbers


def network_parameter(request: Request) -> str | None:
    """Return a URI parameter of Request-URI, From or To that a client may not assert."""
    for uri in (request.request_uri, request.from_.uri, request.to.uri):
        for name in sorted(network_parameters(uri)):
            return name
    return None


def network_parameters(uri: Uri) -> set[str]:
    """Return the parameters of a URI that only the network may set."""
    return {name for name in NETWORK_PARAMETERS if isinstance(uri, SipUri | TelUri) and name in uri.parameters}
