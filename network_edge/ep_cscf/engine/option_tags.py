"""What of the SIP extensions may be said from one side to the other.

A WIC has no preconditions, and is not asked for reliable provisional responses unless it offers them; what IMS only
supports is left out towards it (RFC 3261 section 20.37).  Trickle ICE (RFC 8840) is between the WIC and this edge: its
marks are put in towards the WIC and taken out towards IMS.
"""

from __future__ import annotations

from imskit.sip.wire.message import Message, Request, Response, response_to
from network_edge.ep_cscf.engine.effects import Side

TRICKLE = "trickle-ice"
"""Option tag and Info Package (RFC 8840 section 10)."""
_TO_WEB = frozenset({"precondition", "100rel", TRICKLE})
_TO_IMS = frozenset({"precondition", TRICKLE})


def refuse_required(request: Request) -> Response | None:
    """Refuse a request that needs preconditions (RFC 3312 section 11): no side of this edge has them towards a WIC."""
    if "precondition" not in request.require:
        return None
    response = response_to(request, 420)
    response.headers.add("Unsupported", "precondition")
    return response


def edit(message: Message, towards: Side) -> None:
    """Take out of Supported, Require and Recv-Info what does not pass; `SipParseError` for lists that are none."""
    if towards is Side.WEB:
        # A response's Supported is no wish: 100rel in it asks for nothing.
        _without(message, "Supported", _TO_WEB if isinstance(message, Request) else _TO_IMS)
        _without(message, "Require", _TO_IMS)
    else:
        _without(message, "Supported", _TO_IMS)
        _without(message, "Require", _TO_IMS)
    _without(message, "Recv-Info", frozenset({TRICKLE}))


def offer_trickle(message: Message) -> None:
    """Say that this edge takes candidates by INFO (RFC 8840 section 4.1)."""
    message.headers.add("Supported", TRICKLE)
    message.headers.add("Recv-Info", TRICKLE)


def _without(message: Message, name: str, unwanted: frozenset[str]) -> None:
    headers = message.headers
    if name not in headers:
        return
    elements = headers.elements(name)
    kept = [element for element in elements if element.partition(";")[0].strip().lower() not in unwanted]
    if len(kept) == len(elements):
        return
    if kept:
        headers.set(name, ", ".join(kept))
    else:
        headers.remove(name)
