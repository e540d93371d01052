"""Takes out of SVCB and HTTPS records (RFC 9460) what would lead a browser past the web proxy.

Encrypted ClientHello hides the name that the WWPF intercepts by, and HTTP/3 goes over UDP, past any HTTP proxy.
Only answers about the operator's own names come here; they are rare, so a library re-encodes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
from dns.rdtypes.svcbbase import ALPNParam, MandatoryParam, Param, ParamKey, SVCBBase

from .message import DnsError

# Their constructors carry no annotations.
_alpn_param: Callable[[tuple[bytes, ...]], Param] = cast(Any, ALPNParam)
_mandatory_param: Callable[[tuple[int, ...]], Param] = cast(Any, MandatoryParam)

_SVCB_TYPES = (dns.rdatatype.SVCB, dns.rdatatype.HTTPS)


def strip_hints(data: bytes) -> bytes:
    """Return the response with neither ECH keys nor HTTP/3 protocol names in its SVCB and HTTPS records.

    Signatures over a changed record set go too.  A response without such hints comes back byte-identical.
    Raises DnsError when the response cannot be read.
    """
    try:
        message = dns.message.from_wire(data)
        if not _strip(message):
            return data
        return message.to_wire(max_size=65_535)
    except (dns.exception.DNSException, ValueError, LookupError) as error:
        raise DnsError(f"unreadable SVCB response: {error}", 12, "RFC 9460 section 2.2", None) from error


def _strip(message: dns.message.Message) -> bool:
    changed = False
    for section in (message.answer, message.authority, message.additional):
        for rrset in list(section):
            if rrset.rdtype not in _SVCB_TYPES:
                continue
            stripped = [_stripped(record) for record in rrset]
            if all(new is old for new, old in zip(stripped, rrset, strict=True)):
                continue
            changed = True
            section[section.index(rrset)] = dns.rrset.from_rdata_list(rrset.name, rrset.ttl, stripped)
            section[:] = [
                other
                for other in section
                if not (
                    other.rdtype == dns.rdatatype.RRSIG and other.covers == rrset.rdtype and other.name == rrset.name
                )
            ]
    if changed:
        message.flags &= ~dns.flags.AD
    return changed


def _stripped(record: SVCBBase) -> SVCBBase:
    params: dict[ParamKey, Param | None] = dict(record.params)
    params.pop(ParamKey.ECH, None)
    alpn = params.get(ParamKey.ALPN)
    if isinstance(alpn, ALPNParam):
        kept = tuple(name for name in alpn.ids if name != b"h3" and not name.startswith(b"h3-"))
        if not kept:  # a list may not be empty, and no-default-alpn needs one (RFC 9460 section 7.1.1)
            params.pop(ParamKey.ALPN)
            params.pop(ParamKey.NO_DEFAULT_ALPN, None)
        elif kept != tuple(alpn.ids):
            params[ParamKey.ALPN] = _alpn_param(kept)
    if params == dict(record.params):
        return record
    mandatory = params.get(ParamKey.MANDATORY)
    if isinstance(mandatory, MandatoryParam):
        keys = tuple(key for key in mandatory.keys if key in params)
        if keys:
            params[ParamKey.MANDATORY] = _mandatory_param(keys)
        else:
            params.pop(ParamKey.MANDATORY)
    return cast(SVCBBase, record.replace(params=params))
