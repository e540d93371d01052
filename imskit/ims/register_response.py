"""What the core says in its answers to REGISTER and in reg-event notifications, read for `Registration`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from imskit.aka.challenge import AkaAlgorithm
from imskit.ims.reginfo import RegContact, RegInfo
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


def choose_login(response: Response) -> Login | None:
    """Return the first challenge that we can answer (RFC 8760 section 2.4)."""
    for value in response.headers.get_all("WWW-Authenticate"):
        try:
            challenge = Challenge.parse(value)
        except SipParseError as error:
            _log.warning("challenge passed over: %s", error)
            continue
        algorithm = AkaAlgorithm.parse(challenge.algorithm or "")
        if challenge.is_digest and algorithm is not None:
            return Login(challenge, algorithm)
    return None


def granted_seconds(response: Response, ours: SipUri) -> int:
    """Return the seconds granted to our contact, 0 if it is not there (RFC 3261 section 10.2.4)."""
    contacts = response.contacts
    for contact in contacts if contacts != "*" else []:
        if _same_contact(contact, ours):
            if contact.expires is not None:
                return contact.expires
            return response.expires if response.expires is not None else 3600
    return 0


def own_contact(document: RegInfo, ours: SipUri) -> RegContact | None:
    """Return this device's contact; it is gone only if it is terminated for every identity that names it."""
    found: list[RegContact] = []
    for registration in document.registrations:
        for contact in registration.contacts:
            try:
                uri = parse_uri(contact.uri)
            except SipParseError:
                continue
            if isinstance(uri, SipUri) and _same_address(uri, ours):
                found.append(contact)
    return next((contact for contact in found if contact.state == "active"), found[0] if found else None)


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
    return isinstance(contact.uri, SipUri) and (uri_equal(contact.uri, ours) or _same_address(contact.uri, ours))


def _same_address(uri: SipUri, ours: SipUri) -> bool:
    """Registrars may add URI parameters: host and port tell whose contact it is."""
    return (uri.host.lower(), uri.port or 5060) == (ours.host.lower(), ours.port or 5060)
