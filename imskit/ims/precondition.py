"""Preconditions of a whole session description: the glue between `imskit.sdp.preconditions` and a call's bodies.

All media lines of a call share one status table: an IMS access reserves for the call as a whole.
"""

from __future__ import annotations

from dataclasses import replace

from imskit.sdp import preconditions
from imskit.sdp.description import MediaDescription, SessionDescription
from imskit.sdp.preconditions import Preconditions

_NAMES = ("curr", "des", "conf")


def read_table(sdp: bytes) -> Preconditions | None:
    """Return the status table as the writer sees it, the least met one of all media lines; ``None`` without any.

    ``SdpError``, with the status to answer, if a line is malformed or asks for what no IMS access can give.
    """
    tables = [
        table for media in SessionDescription.parse(sdp).media if (table := preconditions.read(media)) is not None
    ]
    return next((table for table in tables if not table.met), tables[0] if tables else None)


def dress(sdp: bytes, table: Preconditions | None) -> bytes:
    """Return ``sdp`` with ``table`` in every media line in use; unchanged without a table."""
    if table is None:
        return sdp
    description = SessionDescription.parse(sdp)
    for media in description.media:
        if media.port:
            preconditions.write(media, table)
    return description.encode()


def undress(sdp: bytes) -> bytes:
    """Return ``sdp`` without precondition lines."""
    description = SessionDescription.parse(sdp)
    sections: list[SessionDescription | MediaDescription] = [description, *description.media]
    for section in sections:
        section.remove_attributes(*_NAMES)
    return description.encode()


def same_media(one: bytes, other: bytes) -> bool:
    """Whether two descriptions differ in preconditions and version only."""
    return SessionDescription.parse(undress(one)).same_content(SessionDescription.parse(undress(other)))


def renewed(sdp: bytes, previous: bytes, *, force: bool = False) -> bytes:
    """Return ``sdp`` as the successor of ``previous``: same origin, version one up (RFC 3264 section 8).

    ``force``: also where the media are the same, because precondition lines will change.
    """
    if not previous:
        return sdp
    description, before = SessionDescription.parse(sdp), SessionDescription.parse(previous)
    description.succeed(before)
    if force and description.origin.version == before.origin.version:
        description.origin = replace(before.origin, version=before.origin.version + 1)
    return description.encode()
