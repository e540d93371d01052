"""The body ``application/3gpp-ims+xml`` of responses that ask for something else (TS 24.229 clause 7.6)."""

from __future__ import annotations

from imskit.sip.wire.message import Response

MEDIA_TYPE = "application/3gpp-ims+xml"


def add_restoration(response: Response) -> None:
    """Ask for an initial registration: the core has lost the UE (clauses 5.2.6.3.3, 5.1.2A.1.6)."""
    _add(response, "<type>restoration</type><reason/><action>initial-registration</action>")


def add_emergency(response: Response) -> None:
    """Say that the call belongs to an emergency service that is not given here (clause 5.2.10)."""
    _add(response, "<type>emergency</type><reason>no emergency service in this network</reason>")


def _add(response: Response, inner: str) -> None:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<ims-3gpp version="1"><alternative-service>{inner}</alternative-service></ims-3gpp>'
    )
    response.set_body(body.encode(), f'{MEDIA_TYPE};sv="1"')
