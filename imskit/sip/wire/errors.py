"""The one exception of the SIP package, and the status codes with their phrases."""

from __future__ import annotations

REASON_PHRASES: dict[int, str] = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    417: "Unknown Resource-Priority",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    424: "Bad Location Information",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity-Info",
    437: "Unsupported Certificate",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    555: "Push Notification Service Not Supported",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}
"""Status codes of RFC 3261 section 21 and the IANA registry, with their default phrases."""

_CLASS_PHRASES = ("Progress", "OK", "Redirection", "Bad Request", "Server Error", "Global Failure")
_EXCERPT = 60


def reason_phrase(status: int) -> str:
    """Return the registered phrase of ``status`` (100..699), or that of its class."""
    return REASON_PHRASES.get(status) or _CLASS_PHRASES[max(0, min(5, status // 100 - 1))]


class SipParseError(ValueError):
    """Input that is not SIP: what is wrong, where, by which clause, and the answer to send.

    ``status`` (400..699) and ``reason`` are the best answer when the input was a request; ``where`` names the
    header field or line, ``clause`` the standard's section; ``brief`` is the sentence without the peer's own text, for
    logs that may hold no identities.  Every parser of this package raises this type only.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        clause: str = "",
        status: int = 400,
        reason: str | None = None,
        found: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.clause = clause
        self.status = status
        self.reason = reason if reason is not None else reason_phrase(status)
        self.brief = f"{where}: {what}" if where else what
        if clause:
            self.brief += f" ({clause})"
        text = what
        if found is not None:
            shown = found if len(found) <= _EXCERPT else found[:_EXCERPT] + "…"
            # !a: no control character and no lone surrogate of the peer's reaches a log.
            text += f", found {shown!a}"
        if where:
            text = f"{where}: {text}"
        if clause:
            text += f" ({clause})"
        super().__init__(text)
