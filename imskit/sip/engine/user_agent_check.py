"""Whether a command can be written at all: checked before anything is done, so that nothing is done by half."""

from __future__ import annotations

from imskit.sip.engine.user_agent_events import (
    Answer,
    Call,
    Command,
    Configure,
    Modify,
    Profile,
    Provisional,
    Refer,
    Reject,
    RejectOffer,
    Respond,
    Send,
    SendInDialog,
    Subscribe,
)
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.fields import field_key
from imskit.sip.wire.grammar import check_value, is_token
from imskit.sip.wire.headers import Event, MediaType, NameAddr
from imskit.sip.wire.message import Headers, Request

_OWN = frozenset({"via", "from", "to", "call-id", "cseq", "content-length", "content-type", "rseq", "rack"})
"""Fields that belong to the user agent."""


def check_command(command: Command) -> None:
    """Raise `SipParseError` for a command that no message can carry."""
    headers = getattr(command, "headers", ())
    _check_fields(headers)
    match command:
        case Configure(profile):
            _check_profile(profile)
        case Call() | Subscribe() | Refer():
            _check_start(command)
        case Provisional() | Reject() | RejectOffer() | Respond():
            low, high = (101, 199) if isinstance(command, Provisional) else (300, 699)
            if isinstance(command, Respond):
                low = 200
            if not low <= command.status <= high:
                raise SipParseError(f"the status is not in {low}..{high}", where="status", found=str(command.status))
            check_value(command.reason or "", "Reason-Phrase")
    match command:
        case Answer(contact=str(contact)):
            NameAddr.parse(check_value(contact, "Contact"), "Contact")
        case Reject() | RejectOffer() | Respond() | SendInDialog() if command.body:
            MediaType.parse(command.content_type)
    match command:
        case SendInDialog(_, _, method) if not is_token(method) or method in (
            "INVITE",
            "ACK",
            "BYE",
            "CANCEL",
            "PRACK",
            "UPDATE",
        ):
            raise SipParseError("this method has a command of its own", where="method", found=method)
        case Modify(_, _, method) if method not in ("UPDATE", "INVITE"):
            raise SipParseError("only UPDATE and INVITE modify a session", where="method", found=method)
        case Send(_, request):
            _check_request(request)


def _check_fields(headers: object) -> None:
    if not isinstance(headers, tuple):
        raise SipParseError("headers are a tuple of pairs", where="headers")
    for name, _ in headers:
        if field_key(name) in _OWN:
            raise SipParseError("this field is not the owner's", where="headers", found=name)
    Headers(headers)


def _check_profile(profile: Profile) -> None:
    NameAddr.parse(profile.contact, "Contact")
    Headers((("Contact", profile.contact), ("User-Agent", profile.software)))
    for route in profile.route:
        NameAddr.parse(check_value(route, "Route"), "Route")
    for rule in profile.rules:
        _check_fields(rule.fields)


def _check_start(command: Call | Subscribe | Refer) -> None:
    contact = None if isinstance(command, Refer) else command.contact
    for name, value in (("From", command.from_), ("To", command.to), ("Contact", contact)):
        if value is not None:
            address = NameAddr.parse(check_value(value, name), name)
            if name != "Contact" and address.tag is not None:
                raise SipParseError("the tag is not the owner's", where=name)
    for route in command.route or ():
        NameAddr.parse(check_value(route, "Route"), "Route")
    Request.create("INVITE", command.uri)
    if isinstance(command, Subscribe):
        Event.parse(check_value(command.event, "Event"))
        Headers((("Accept", ", ".join(command.accept)),))
        if not 0 <= command.expires < 2**32:
            raise SipParseError("seconds are out of range", where="expires", found=str(command.expires))
    elif isinstance(command, Refer):
        NameAddr.parse(check_value(command.refer_to, "Refer-To"), "Refer-To")
    else:
        Headers((("Require", ", ".join(command.require)),))


def _check_request(request: Request) -> None:
    _ = request.from_, request.to, request.call_id
    if request.cseq.method != request.method or request.method in ("ACK", "CANCEL", "INVITE"):
        raise SipParseError("a request outside calls is needed", where="CSeq", found=request.method)
