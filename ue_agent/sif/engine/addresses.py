"""Whom the page calls and who calls it: URIs as the page spells them, and as IMS does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.uri import SipUri, TelUri, Uri, parse_uri

EMERGENCY_NUMBERS = frozenset({"112", "911"})
"""Emergency numbers of every network (TS 22.101 clause 10.1.1)."""
_NUMBER = re.compile(r"\+?[0-9*#]{1,40}")
_VISUAL = str.maketrans("", "", "-.() ")
_PAGE_ONLY = ("transport", "maddr", "ttl", "method", "lr", "referral")
"""URI parameters that say how the page's message travels, and nothing of whom it calls."""
_NOBODY = "anonymous.invalid"


def home_domain(identities: Iterable[str]) -> str:
    """Return the host of the first SIP identity, empty if there is none."""
    for identity in identities:
        try:
            uri = parse_uri(str.__str__(identity))
        except SipParseError:
            continue
        if isinstance(uri, SipUri):
            return uri.host
    return ""


def is_emergency(uri: Uri) -> bool:
    """Tell whether ``uri`` is that of an emergency service: such calls belong to the device's own dialler."""
    if isinstance(uri, TelUri):
        return uri.digits in EMERGENCY_NUMBERS
    if isinstance(uri, SipUri):
        user = uri.user_text.partition(";")[0].translate(_VISUAL).lower()
        return user in EMERGENCY_NUMBERS or user == "sos" or _is_sos(uri.user_text)
    return _is_sos(str(uri))


def target(uri: Uri, domain: str) -> str:
    """Return the URI to call in IMS for the page's Request-URI; ``domain`` is the home domain.

    A number in the home domain is a telephone number; one that is not international counts in the home network
    (TS 24.229 clause 7.2A.10.3: home-local number).
    """
    if isinstance(uri, TelUri):
        if uri.number.startswith("+") or "phone-context" in uri.parameters or not domain:
            return str(uri)
        return str(TelUri(uri.digits, uri.parameters.with_("phone-context", domain)))
    if not isinstance(uri, SipUri):
        return str(uri)
    uri = SipUri("sip", uri.user, None, uri.host, uri.port, uri.parameters.without(*_PAGE_ONLY))
    number, semicolon, context = uri.user_text.partition(";")
    number = number.translate(_VISUAL)
    if _NUMBER.fullmatch(number) is None or uri.host.lower() != domain.lower():
        return str(uri)
    user = quote(number, safe="+*")
    if semicolon:
        user += f";{quote(context, safe='=;.-+')}"
    elif not number.startswith("+"):
        user += f";phone-context={domain}"
    return str(SipUri("sip", user, None, uri.host, uri.port, uri.parameters.with_("user", "phone")))


def caller_for_page(caller: NameAddr, domain: str) -> NameAddr:
    """Return the caller as a page can show and call back: a SIP URI, with the number as name where there is none."""
    uri = caller.uri
    if isinstance(uri, TelUri):
        shown = SipUri("sip", quote(uri.digits, safe="+*"), None, domain or _NOBODY).with_parameter("user", "phone")
        return NameAddr(shown, caller.display or uri.digits)
    if isinstance(uri, SipUri) and uri.user:
        return NameAddr(uri, caller.display or uri.user_text.partition(";")[0])
    return NameAddr(SipUri("sip", "anonymous", None, _NOBODY), caller.display or "Anonymous")


def _is_sos(text: str) -> bool:
    text = text.lower()
    return text == "urn:service:sos" or text.startswith("urn:service:sos.")
