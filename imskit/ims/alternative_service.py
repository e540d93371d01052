"""The body ``application/3gpp-ims+xml`` of responses that ask for something else (TS 24.229 clause 7.6).

Two words of it count here; they are looked for in the octets, so no XML of the network's is ever parsed.
"""

from __future__ import annotations

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Response

MEDIA_TYPE = "application/3gpp-ims+xml"


def add_restoration(response: Response) -> None:
    """Ask for an initial registration: the core has lost the UE (clauses 5.2.6.3.3, 5.1.2A.1.6)."""
    _add(response, "<type>restoration</type><reason/><action>initial-registration</action>")


def add_emergency(response: Response) -> None:
    """Say that the call belongs to an emergency service that is not given here (clause 5.2.10)."""
    _add(response, "<type>emergency</type><reason>no emergency service in this network</reason>")


def asks_restoration(message: Message | None) -> bool:
    """Whether a 504 asks for an initial registration (clauses 5.1.2A.1.6, 5.1.3.1)."""
    return _is(message, 504) and b"restoration" in _body(message) and b"initial-registration" in _body(message)


def is_emergency(message: Message | None) -> bool:
    """Whether a 380 says that the call belongs to an emergency service (clause 5.1.3.1)."""
    return _is(message, 380) and b"emergency" in _body(message)


def _is(message: Message | None, status: int) -> bool:
    return isinstance(message, Response) and message.status == status


def _body(message: Message | None) -> bytes:
    if message is None:
        return b""
    try:
        kind = message.content_type
    except SipParseError:
        return b""
    return message.body if kind is not None and kind.essence == MEDIA_TYPE else b""


def _add(response: Response, inner: str) -> None:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<ims-3gpp version="1"><alternative-service>{inner}</alternative-service></ims-3gpp>'
    )
    response.set_body(body.encode(), f'{MEDIA_TYPE};sv="1"')
