"""Public user identities: which spellings are the same one, which one a UE prefers (TS 23.003 clause 13.4)."""

from __future__ import annotations

from collections.abc import Iterable

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Request
from imskit.sip.wire.uri import SipUri, TelUri, Uri, parse_uri


def key_of(identity: Uri | str) -> str:
    """Return what two spellings of a public identity have in common; the text itself if it is no URI.

    What is no part of the address (sips, transport, user=phone, the hyphens of a number) does not count.
    """
    if isinstance(identity, str):
        try:
            identity = parse_uri(str.__str__(identity))
        except SipParseError:
            return str.__str__(identity)
    if isinstance(identity, SipUri):
        return f"sip:{str(identity.address_of_record()).partition(':')[2]}"
    return f"tel:{identity.digits}" if isinstance(identity, TelUri) else str(identity)


def preferred[T: str](request: Request, identities: Iterable[T]) -> T | None:
    """Return the identity that the UE prefers, if it is one of ``identities`` (TS 24.229 clause 5.2.6.3.3).

    P-Preferred-Identity says so, else From.  Raises ``SipParseError``.
    """
    by_key: dict[str, T] = {}
    for identity in identities:
        by_key.setdefault(key_of(identity), identity)
    for wanted in (*request.addresses("P-Preferred-Identity"), request.from_):
        if (found := by_key.get(key_of(wanted.uri))) is not None:
            return found
    return None
