"""What the core says in its answers to REGISTER and in reg-event notifications, read for `Registration`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from imskit.aka.challenge import AkaAlgorithm
from imskit.secrets import Secret
from imskit.sip.wire.auth import Challenge
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Response
from imskit.sip.wire.uri import SipUri, parse_uri, uri_equal

_log = logging.getLogger(__name__)


@dataclass
class Login:
    """A challenge and, once the card has answered it, the password it led to."""

    challenge: Challenge
    algorithm: AkaAlgorithm
    password: Secret[bytes] | None = None
    count: int = 0
    """How often it has been answered: nc."""


def choose_login(response: Response, accepted: frozenset[str] | None = None) -> Login | None:
    """Return the first challenge that we can answer (RFC 8760 section 2.4).

    ``accepted`` are the only algorithms taken, in lower case; ``None``: every AKA algorithm.
    """
    for value in response.headers.get_all("WWW-Authenticate"):
        try:
            challenge = Challenge.parse(value)
        except SipParseError as error:
            _log.warning("challenge passed over: %s", error)
            continue
        name = challenge.algorithm or ""
        algorithm = AkaAlgorithm.parse(name) if accepted is None or name.lower() in accepted else None
        if challenge.is_digest and algorithm is not None:
            return Login(challenge, algorithm)
    return None


@dataclass(frozen=True)
class Granted:
    """What a 200 to REGISTER grants to our contact."""

    seconds: int
    """0: the contact is not there."""
    public_gruu: str = ""
    """RFC 5627 section 4.2; empty: none."""
    temporary_gruu: str = ""


def granted(response: Response, ours: SipUri) -> Granted:
    """Read what is granted to our contact (RFC 3261 section 10.2.4); `SipParseError` if the 200 cannot be read."""
    contacts = response.contacts
    for contact in contacts if contacts != "*" else []:
        if _same_contact(contact, ours):
            seconds = contact.expires
            if seconds is None:
                seconds = response.expires if response.expires is not None else 3600
            return Granted(seconds, _gruu(contact, "pub-gruu"), _gruu(contact, "temp-gruu"))
    return Granted(0)


def usable_gruu(text: str) -> str:
    """Return ``text`` if it is a SIP URI that may stand in a Contact, else nothing."""
    try:
        return str(text) if isinstance(parse_uri(text), SipUri) and not set(text) & set('<>" \t') else ""
    except SipParseError:
        return ""


def keep_alive_seconds(response: Response) -> int | None:
    """Return the interval that the P-CSCF wants keep-alives at (RFC 6223 section 4.4).

    0 leaves it to us; ``None``: it takes none.
    """
    try:
        value = response.top_via.parameters.get("keep")
    except SipParseError:
        return None
    return int(value) if value and value.isascii() and value.isdigit() and len(value) <= 6 else None


def retry_after(response: Response) -> float | None:
    """Return the seconds to wait, where the core says so."""
    try:
        value = response.retry_after
    except SipParseError:
        return None
    return None if value is None else float(value.seconds)


def network_words(response: Response) -> str:
    """Return the core's own words in parentheses, where it has any."""
    words = ""
    for value in response.headers.get_all("Warning"):
        _, quote, rest = value.partition('"')
        if quote:
            words += f" ({rest.rpartition('"')[0]})"
    return words


def _same_contact(contact: NameAddr, ours: SipUri) -> bool:
    return isinstance(contact.uri, SipUri) and (uri_equal(contact.uri, ours) or same_address(contact.uri, ours))


def _gruu(contact: NameAddr, name: str) -> str:
    return usable_gruu(contact.parameters.get(name) or "")


def same_address(uri: SipUri, ours: SipUri) -> bool:
    """Tell whether two URIs name the same host and port.

    Registrars may add URI parameters: host and port tell whose contact it is.
    """
    return (uri.host.lower(), uri.port or 5060) == (ours.host.lower(), ours.port or 5060)
