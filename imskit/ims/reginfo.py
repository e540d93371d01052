"""Registration information documents, ``application/reginfo+xml`` (RFC 3680, RFC 5628, TS 24.229 clause 5.1.1.6)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

MEDIA_TYPE = "application/reginfo+xml"
MAXIMUM_SIZE = 256 * 1024
"""Longest document read, bytes."""
_NAMESPACE = "urn:ietf:params:xml:ns:reginfo"
_GRUU_NAMESPACE = "urn:ietf:params:xml:ns:gruuinfo"

type RegistrationState = Literal["init", "active", "terminated"]
type ContactState = Literal["active", "terminated"]
_REGISTRATION_STATES: dict[str, RegistrationState] = {"init": "init", "active": "active", "terminated": "terminated"}
_CONTACT_STATES: dict[str, ContactState] = {"active": "active", "terminated": "terminated"}


class RegInfoError(ValueError):
    """A document that cannot be used; says what and where (RFC 3680 section 5)."""


@dataclass(frozen=True)
class RegContact:
    """One contact of a registration."""

    uri: str
    state: ContactState
    event: str
    """registered, created, refreshed, shortened, expired, deactivated, probation, unregistered, rejected."""
    id: str = ""
    expires: int | None = None
    """Seconds left."""
    retry_after: int | None = None
    """With ``probation``: seconds until a new attempt is welcome."""
    public_gruu: str = ""
    """RFC 5628 section 5; empty: none."""
    temporary_gruu: str = ""


@dataclass(frozen=True)
class Registration:
    """The registration of one public identity."""

    aor: str
    state: RegistrationState
    contacts: tuple[RegContact, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class RegInfo:
    """A whole document."""

    version: int
    full: bool
    """False: only the registrations that changed."""
    registrations: tuple[Registration, ...]

    def encode(self) -> bytes:
        """Return the XML document."""
        root = ET.Element(
            "reginfo", xmlns=_NAMESPACE, version=str(self.version), state="full" if self.full else "partial"
        )
        for index, registration in enumerate(self.registrations):
            element = ET.SubElement(
                root,
                "registration",
                aor=registration.aor,
                id=registration.id or f"r{index}",
                state=registration.state,
            )
            for number, contact in enumerate(registration.contacts):
                attributes = {
                    "id": contact.id or f"c{index}.{number}",
                    "state": contact.state,
                    "event": contact.event,
                }
                if contact.expires is not None:
                    attributes["expires"] = str(contact.expires)
                if contact.retry_after is not None:
                    attributes["retry-after"] = str(contact.retry_after)
                child = ET.SubElement(element, "contact", attributes)
                ET.SubElement(child, "uri").text = contact.uri
                for name, gruu in (("pub-gruu", contact.public_gruu), ("temp-gruu", contact.temporary_gruu)):
                    if gruu:
                        more = {"first-cseq": "1"} if name == "temp-gruu" else {}
                        ET.SubElement(child, f"{{{_GRUU_NAMESPACE}}}{name}", {"uri": gruu, **more})
        return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root)

    @classmethod
    def parse(cls, data: bytes) -> RegInfo:
        """Read a document; ``RegInfoError`` if it is too long, has a document type, or breaks the schema."""
        if len(data) > MAXIMUM_SIZE:
            raise RegInfoError(f"reginfo: {len(data)} bytes, more than {MAXIMUM_SIZE}")
        if b"<!" in data.replace(b"<!--", b""):
            # No document type, so no entities: nothing can expand.
            raise RegInfoError("reginfo: a document type or CDATA section has no place here (RFC 3680 section 5)")
        try:
            root = ET.fromstring(data)
        except (ET.ParseError, ValueError, LookupError) as error:
            raise RegInfoError(f"reginfo: not well-formed XML: {error}") from None
        if root.tag != f"{{{_NAMESPACE}}}reginfo":
            raise RegInfoError(f"reginfo: the root element is {root.tag[:80]} (RFC 3680 section 5.1)")
        version = _number(root, "version")
        if version is None:
            raise RegInfoError("reginfo: version is missing (RFC 3680 section 5.1)")
        registrations = tuple(_registration(element) for element in _children(root, "registration"))
        return cls(version, root.get("state") == "full", registrations)


def _registration(element: ET.Element) -> Registration:
    name = element.get("state", "")
    state = _REGISTRATION_STATES.get(name)
    if state is None:
        raise RegInfoError(f"reginfo: registration state {name[:40]} is unknown (RFC 3680 section 5.2)")
    contacts = tuple(_contact(child) for child in _children(element, "contact"))
    return Registration(element.get("aor", ""), state, contacts, element.get("id", ""))


def _contact(element: ET.Element) -> RegContact:
    name = element.get("state", "")
    state = _CONTACT_STATES.get(name)
    if state is None:
        raise RegInfoError(f"reginfo: contact state {name[:40]} is unknown (RFC 3680 section 5.3)")
    uri = next((child.text or "" for child in _children(element, "uri")), "").strip()
    return RegContact(
        uri,
        state,
        element.get("event", ""),
        element.get("id", ""),
        _number(element, "expires"),
        _number(element, "retry-after"),
        _gruu(element, "pub-gruu"),
        _gruu(element, "temp-gruu"),
    )


def _gruu(element: ET.Element, name: str) -> str:
    found = element.find(f"{{{_GRUU_NAMESPACE}}}{name}")
    return "" if found is None else "".join(found.get("uri", "").split())


def _children(element: ET.Element, name: str) -> Iterable[ET.Element]:
    return element.iterfind(f"{{{_NAMESPACE}}}{name}")


def _number(element: ET.Element, name: str) -> int | None:
    text = element.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise RegInfoError(f"reginfo: {name}={text[:20]!r} is no number")
    return int(text)
