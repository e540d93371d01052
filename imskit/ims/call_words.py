"""What a call's messages say to people: that it waits, why it ended, in the network's own words where there are any."""

from __future__ import annotations

from imskit.ims.alternative_service import is_emergency
from imskit.ims.events import Fields
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request, Response

CALL_WAITING = "urn:alert:service:call-waiting"
"""Alert-Info of a 180 whose callee is in another call (TS 24.615, RFC 7462 section 9)."""
_EMERGENCY = (
    "this is an emergency call, which the network leaves to the device's own dialler: hang up and dial it there"
)


def call_waiting(message: Message) -> bool:
    """Whether a message says that the callee is in another call (TS 24.615 clause 4.5.5, RFC 7462)."""
    values = {element.strip().strip("<>").lower() for element in message.headers.elements("Alert-Info")}
    return CALL_WAITING in values


def warning(text: str) -> Fields:
    """A Warning that carries ``text`` (RFC 3261 section 20.43, code 399)."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)[:200].replace("\\", "/").replace('"', "'")
    return (("Warning", f'399 imsbridge "{shown}"'),)


def story(cause: ua.Cause, message: Message | None) -> str:
    """What ended a call, in words, with those of the network where it gives any."""
    words = network_words(message)
    if is_emergency(message):
        return f"380 Alternative Service ({_EMERGENCY})"
    if isinstance(message, Response):
        text = f"{message.status} {message.reason}".rstrip()
        text = f"{text} ({words})" if words else text
        return text + _later(message)
    if isinstance(message, Request) and message.method == "CANCEL":
        return f"the caller gave up ({words})" if words else "the caller gave up"
    if isinstance(message, Request):
        return f"the other side hung up ({words})" if words else "the other side hung up"
    return cause.value


def _later(response: Response) -> str:
    """When to try again, where the network says (RFC 3261 section 20.33); nothing here does so by itself."""
    try:
        after = response.retry_after
    except SipParseError:
        return ""
    return f", try again in {after.seconds} s" if after is not None else ""


def network_words(message: Message | None) -> str:
    """Return the text of the Warning, else of the Reason of ``message``; empty if it has none."""
    if message is None:
        return ""
    for value in message.headers.get_all("Warning"):
        _, quote, rest = value.partition('"')
        if quote:
            return rest.rpartition('"')[0]
    try:
        return next((reason.text for reason in message.reasons if reason.text), "")
    except SipParseError:
        return ""
