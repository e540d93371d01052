"""Refusals with a Warning, and the Reason values of a release in the network's name."""

from __future__ import annotations

from imskit.sip.wire.grammar import quote
from imskit.sip.wire.headers import ReasonHeader
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.iq.gateway import Loss

_AGENT = "ep-cscf"
_LONGEST = 200

_LOSSES: dict[Loss, tuple[int, str]] = {
    Loss.CONSENT: (27, "consent-lost: the browser has gone (RFC 7675)"),
    Loss.MEDIA_TIMEOUT: (102, "media-timeout: no media from the IMS side"),
    Loss.CIRCUIT_BREAKER: (42, "circuit-breaker: the media path is congested (RFC 8083)"),
    Loss.TRANSPORT: (47, "transport-failed: ICE or DTLS with the browser failed"),
    Loss.GATEWAY: (38, "gateway-lost: the media gateway is gone"),
}
"""Cause of Q.850: destination out of order, recovery on timer expiry, congestion, resource unavailable, network out
of order."""


def reason(cause: int, text: str) -> str:
    """Reason values for a release by the network: 503 (TS 24.229 5.2.8.1.2) and the cause of Q.850 (RFC 3326)."""
    return f"{ReasonHeader.of('SIP', 503, text)}, {ReasonHeader.of('Q.850', cause, text)}"


def reason_of(loss: Loss) -> str:
    """Reason values for a call whose media are lost."""
    return reason(*_LOSSES[loss])


NO_ANSWER = reason(47, "no-media: offer and answer could not be completed")
"""Reason values for a call that was answered and has no media."""


def refusal(request: Request, status: int, words: str, warning: int = 399) -> Response:
    """A final response with a Warning of this edge (RFC 3261 section 20.43); ``words`` may quote the peer's text."""
    response = response_to(request, status)
    printable = "".join(char if char.isprintable() and char.isascii() else "?" for char in words[:_LONGEST])
    response.headers.add("Warning", f"{warning} {_AGENT} {quote(printable)}")
    if status == 415:
        response.headers.add("Accept", "application/sdp, multipart/mixed")
        response.headers.add("Accept-Encoding", "identity")
    return response
