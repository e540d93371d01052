"""Telephone numbers in From and To as browsers' SIP stacks can read them.

IMS addresses telephones by ``tel:`` URIs; JsSIP and SIP.js throw away a request that has one in From or To.  Towards
the client it is written as the SIP URI that means the same (RFC 3261 section 19.1.6), and answers to such a request
get back what the request had: the core sees what it wrote (section 8.2.6.2).  Dialogs are known by their tags, so a
later request of the client may have the SIP URI.
"""

from __future__ import annotations

from dataclasses import replace

from imskit.sip.wire.message import Request, Response
from imskit.sip.wire.uri import TelUri, parse_uri


def readable(request: Request, home_domain: str) -> None:
    """Rewrite From and To of a request that goes to a client."""
    for name, address in (("From", request.from_), ("To", request.to)):
        if isinstance(address.uri, TelUri):
            number = str(address.uri).removeprefix("tel:")
            request.headers.set(name, replace(address, uri=parse_uri(f"sip:{number}@{home_domain};user=phone")))


def restore(response: Response, request: Request) -> None:
    """Give the answer to a request of the core the From and To that the request had, with the tag of who answers."""
    if not any(isinstance(address.uri, TelUri) for address in (request.from_, request.to)):
        return
    tag = response.to.tag
    headers = response.headers
    headers.set("From", request.headers.get("From"))
    headers.set("To", request.to if tag is None or request.to.tag == tag else request.to.with_tag(tag))
