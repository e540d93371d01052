"""What a reg-event notification means for this device (TS 24.229 clauses 5.1.1.5.1, 5.1.1.6 and 5.1.1.7; RFC 3680)."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.ims.reginfo import RegContact, RegInfo
from imskit.ims.register_response import same_address
from imskit.secrets import Identity
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.uri import SipUri, TelUri, parse_uri


@dataclass(frozen=True)
class Notice:
    """A notification, read for one contact."""

    active: tuple[Identity, ...]
    """Identities that the document says are registered with this device."""
    gone: tuple[Identity, ...]
    """Identities that the document says are not, or no longer."""
    ended: RegContact | None
    """Set where the registration as a whole is over: the word that says why."""
    shortened: int | None
    """Seconds left where the network wants this device to authenticate again."""
    public_gruu: str = ""
    temporary_gruu: str = ""


def read(document: RegInfo, ours: SipUri, registered: tuple[Identity, ...], primary: Identity) -> Notice:
    """Read ``document`` for the contact ``ours``.

    ``registered`` are the identities in use, ``primary`` the one that was registered explicitly.  The registration is
    over when a document ends it for ``primary``, or for every identity in use, and says of none that it goes on.
    """
    active: list[Identity] = []
    gone: list[Identity] = []
    words: list[RegContact] = []
    alive: list[tuple[str, RegContact]] = []
    for registration in document.registrations:
        own = [contact for contact in registration.contacts if _is_ours(contact, ours)]
        live = next((contact for contact in own if contact.state == "active"), None)
        if live is not None:
            active.append(Identity(registration.aor))
            alive.append((registration.aor, live))
        elif own:
            gone.append(Identity(registration.aor))
            words.append(own[0])
    ended = {identity_key(each) for each in gone}
    left = {identity_key(each) for each in registered} - ended
    over = bool(words) and not active and (not left or document.full or identity_key(primary) in ended)
    shortened = next((c.expires for _, c in alive if c.event == "shortened" and c.expires is not None), None)
    own_key = identity_key(primary)
    mine = next((c for aor, c in alive if identity_key(Identity(aor)) == own_key), None)
    return Notice(
        tuple(active),
        tuple(gone),
        words[0] if over else None,
        shortened,
        mine.public_gruu if mine else "",
        mine.temporary_gruu if mine else "",
    )


def identity_key(identity: Identity) -> str:
    """Return what all spellings of one public identity have in common (RFC 3261 section 10.3, RFC 3966 section 4)."""
    text = str.__str__(identity)
    try:
        uri = parse_uri(text)
    except SipParseError:
        return text
    if isinstance(uri, SipUri):
        return str(uri.address_of_record())
    return f"tel:{uri.digits}" if isinstance(uri, TelUri) else text


def usable_identity(identity: Identity) -> bool:
    """Tell whether a text is one public identity: a SIP or tel URI, no wildcard."""
    try:
        uri = parse_uri(str.__str__(identity))
    except SipParseError:
        return False
    return uri.scheme in ("sip", "sips", "tel") and "!" not in identity


def _is_ours(contact: RegContact, ours: SipUri) -> bool:
    try:
        uri = parse_uri(contact.uri)
    except SipParseError:
        return False
    return isinstance(uri, SipUri) and same_address(uri, ours)
