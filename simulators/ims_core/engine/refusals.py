"""Refusals of the S-CSCF to REGISTER, with a reason for people."""

from __future__ import annotations

import logging

from imskit.sip.wire.message import Request, Response, response_to

_log = logging.getLogger(__name__)


def refuse(request: Request, status: int, words: str) -> Response:
    """Return the refusal."""
    response = response_to(request, status, to_tag="refused")
    response.headers.add("Warning", f'399 scscf "{words}"')
    _log.info("REGISTER refused with %d: %s", status, words)
    return response
