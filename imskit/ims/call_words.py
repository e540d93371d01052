"""What ended a call, in words for the log and the user, and the network's own words within them."""

from __future__ import annotations

from imskit.ims.events import Fields
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Message, Request, Response


def warning(text: str) -> Fields:
    """A Warning that carries ``text`` (RFC 3261 section 20.43, code 399)."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text)[:200].replace("\\", "/").replace('"', "'")
    return (("Warning", f'399 imsbridge "{shown}"'),)


def story(cause: ua.Cause, message: Message | None) -> str:
    """What ended a call, in words, with those of the network where it gives any."""
    words = network_words(message)
    if isinstance(message, Response):
        text = f"{message.status} {message.reason}".rstrip()
        return f"{text} ({words})" if words else text
    if isinstance(message, Request) and message.method == "CANCEL":
        return f"the caller gave up ({words})" if words else "the caller gave up"
    if isinstance(message, Request):
        return f"the other side hung up ({words})" if words else "the other side hung up"
    return cause.value


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
