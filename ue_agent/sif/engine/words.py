"""Why a call ends, from one side to the other: status, phrase, and the network's own words for the user."""

from __future__ import annotations

from imskit.ims import events as ims
from imskit.sip.engine import user_agent as page
from imskit.sip.wire.message import Message, Request, Response

type Fields = tuple[tuple[str, str], ...]

_LONGEST = 200
"""Characters of a text for the user."""
_COPIES = 4
"""How many fields of a name are passed on."""
_KEPT = ("Warning", "Reason", "Retry-After")
_EMERGENCY = "the network leaves this call to the device's own dialler (alternative service)"
_NO_RESPONSE = {
    page.Cause.TIMEOUT: 504,
    page.Cause.NO_ANSWER: 408,
    page.Cause.PROTOCOL: 500,
    page.Cause.REMOTE: 480,
}
"""What a page is told where IMS ends a call without a response."""
_OF_THE_USER = frozenset({480, 486, 488, 600, 603, 606})
"""What a page may answer for its user; anything else says something of the page, not of the user."""


def warning(text: str, code: int = 399) -> Fields:
    """A Warning with words for the user (RFC 3261 section 20.43)."""
    return (("Warning", f'{code} imsbridge "{_shown(text)}"'),)


def reason(status: int, text: str) -> Fields:
    """A Reason with words for the user (RFC 3326)."""
    return (("Reason", f'SIP;cause={status};text="{_shown(text)}"'),)


def reason_of(message: Message | None) -> Fields:
    """The Reason values of what ended the other side."""
    return _copied(message, ("Reason",))


def refusal_for_page(ended: ims.Ended) -> tuple[int, str | None, Fields]:
    """Status, phrase and further fields for a page whose call IMS did not take."""
    message = ended.message
    if isinstance(message, Response) and message.status >= 300:
        fields = _copied(message, _KEPT)
        if message.status in (401, 407):
            # The network asks the device, not the page, and the device has no answer.
            return 403, None, fields or warning(ended.reason)
        if message.status == 380 and not fields:
            return 380, message.reason or None, warning(_EMERGENCY)
        return message.status, message.reason or None, fields
    if isinstance(message, Request):
        return 480, None, reason_of(message) or warning(ended.reason)
    status = 503 if ended.cause is None else _NO_RESPONSE.get(ended.cause, 503)
    return status, None, warning(ended.reason)


def end_for_page(ended: ims.Ended) -> Fields:
    """The fields of a BYE or CANCEL to the page: the network's Reason, else ours."""
    known = reason_of(ended.message)
    if known or ended.message is not None:
        return known
    return reason(503 if ended.cause is None else _NO_RESPONSE.get(ended.cause, 503), ended.reason)


def refusal_for_ims(message: Message | None) -> tuple[int, Fields]:
    """Status and fields for a caller whose call no page took."""
    if isinstance(message, Response) and message.status in _OF_THE_USER:
        return message.status, _copied(message, ("Reason", "Retry-After"))
    # RFC 3261 section 16.7: a page that cannot be reached says nothing of the user.
    return 480, ()


def _copied(message: Message | None, names: tuple[str, ...]) -> Fields:
    if message is None:
        return ()
    return tuple((name, value) for name in names for value in message.headers.get_all(name)[:_COPIES])


def _shown(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:_LONGEST].replace("\\", "/").replace('"', "'")
