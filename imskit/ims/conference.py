"""Conference information documents, ``application/conference-info+xml`` (RFC 4575, TS 24.147 clause 5.3.1.2).

Whoever is in a conference learns of the others by the ``conference`` event package of the focus.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field

MEDIA_TYPE = "application/conference-info+xml"
MAXIMUM_SIZE = 256 * 1024
"""Longest document read, bytes."""
MAXIMUM_USERS = 256
_NAMESPACE = "urn:ietf:params:xml:ns:conference-info"
_STATES = ("full", "partial", "deleted")


class ConferenceInfoError(ValueError):
    """A document that cannot be used; says what and where (RFC 4575 section 5)."""


@dataclass(frozen=True, slots=True)
class ConferenceUser:
    """Somebody in a conference."""

    entity: str
    """Public identity, or anonymous (RFC 4575 section 5.6)."""
    status: str = "connected"
    """Of the endpoint: dialing-out, alerting, connected, on-hold, disconnected … (section 5.7.2)."""
    display: str = ""
    state: str = "full"
    """``full``, ``partial``: only what changed; ``deleted``: has left."""


@dataclass(frozen=True, slots=True)
class ConferenceInfo:
    """A whole document."""

    entity: str
    """Conference URI."""
    version: int
    state: str
    """``full``, ``partial`` or ``deleted`` (section 4.4)."""
    users: tuple[ConferenceUser, ...]

    def encode(self) -> bytes:
        """Return the XML document."""
        root = ET.Element(
            "conference-info", xmlns=_NAMESPACE, entity=self.entity, state=self.state, version=str(self.version)
        )
        users = ET.SubElement(root, "users")
        for user in self.users:
            element = ET.SubElement(users, "user", entity=user.entity, state=user.state)
            if user.display:
                ET.SubElement(element, "display-text").text = user.display
            endpoint = ET.SubElement(element, "endpoint", entity=user.entity)
            ET.SubElement(endpoint, "status").text = user.status
        return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root)

    @classmethod
    def parse(cls, data: bytes) -> ConferenceInfo:
        """Read a document; ``ConferenceInfoError`` if it is too long, has a document type, or breaks the schema."""
        if len(data) > MAXIMUM_SIZE:
            raise ConferenceInfoError(f"conference-info: {len(data)} bytes, more than {MAXIMUM_SIZE}")
        if b"<!" in data.replace(b"<!--", b"") or b"\0" in data:
            # No document type, so no entities: nothing can expand.  Nor UTF-16, where it would not be seen.
            raise ConferenceInfoError("conference-info: a document type or CDATA section has no place here")
        try:
            root = ET.fromstring(data)
        except (ET.ParseError, ValueError, LookupError) as error:
            raise ConferenceInfoError(f"conference-info: not well-formed XML: {error}") from None
        if root.tag != f"{{{_NAMESPACE}}}conference-info":
            raise ConferenceInfoError(f"conference-info: the root element is {root.tag[:80]} (RFC 4575 section 5.3)")
        version = root.get("version", "0")
        if not (version.isascii() and version.isdigit() and len(version) <= 10):
            raise ConferenceInfoError(f"conference-info: version={version[:20]!r} is no number")
        users = [user for users in _children(root, "users") for user in _children(users, "user")]
        if len(users) > MAXIMUM_USERS:
            raise ConferenceInfoError(f"conference-info: {len(users)} users, more than {MAXIMUM_USERS}")
        state = _state(root)
        return cls(root.get("entity", ""), int(version), state, tuple(_user(element) for element in users))


@dataclass(slots=True)
class Roster:
    """Who is in a conference, from one document after the other (RFC 4575 section 4.4)."""

    users: dict[str, ConferenceUser] = field(default_factory=dict)
    _version: int = -1

    def take(self, document: ConferenceInfo) -> tuple[ConferenceUser, ...]:
        """Take in a document; one older than the last means nothing.  Returns who is there now."""
        if document.version > self._version:
            self._version = document.version
            if document.state != "partial":
                self.users.clear()
            for user in document.users if document.state != "deleted" else ():
                if user.state == "deleted" or user.status == "disconnected":
                    self.users.pop(user.entity, None)
                else:
                    self.users[user.entity] = user
        return tuple(self.users.values())


def _user(element: ET.Element) -> ConferenceUser:
    statuses = [
        (status.text or "").strip()
        for endpoint in _children(element, "endpoint")
        for status in _children(endpoint, "status")
    ]
    display = next((child.text or "" for child in _children(element, "display-text")), "").strip()
    # One of several endpoints that is still there keeps the user in.
    status = next((known for known in statuses if known != "disconnected"), statuses[0] if statuses else "connected")
    return ConferenceUser(element.get("entity", ""), status, display, _state(element))


def _state(element: ET.Element) -> str:
    state = element.get("state", "full")
    if state not in _STATES:
        raise ConferenceInfoError(f"conference-info: state {state[:40]!r} is unknown (RFC 4575 section 4.4)")
    return state


def _children(element: ET.Element, name: str) -> Iterable[ET.Element]:
    return element.iterfind(f"{{{_NAMESPACE}}}{name}")
