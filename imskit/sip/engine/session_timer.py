"""The session timer of a dialog, both roles (RFC 4028): what to write, what to accept, when to act.

Pure bookkeeping: `SessionTimer` is told what was sent and received and says when to refresh and when to give up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imskit.sip.wire.headers import MinSE, SessionExpires
from imskit.sip.wire.message import Request, Response

type Role = Literal["uac", "uas"]

LEAST = 90
"""Seconds below which no session interval may be (RFC 4028 section 5)."""


@dataclass(frozen=True, slots=True)
class SessionTimerPolicy:
    """What this user agent wants."""

    interval: int | None = 1800
    """Seconds to ask for; ``None``: take part, but never ask."""
    least: int = LEAST
    """The least interval accepted (Min-SE), at least 90."""
    refresher: Role | None = None
    """Who is asked to refresh in our own requests; ``None`` (recommended): the peer chooses."""

    def __post_init__(self) -> None:
        if self.least < LEAST or (self.interval is not None and self.interval < self.least):
            raise ValueError("a session timer policy needs 90 <= least <= interval")


class SessionTimer:
    """State of RFC 4028 in one dialog, or of an INVITE that has none yet."""

    def __init__(self, policy: SessionTimerPolicy | None, *, least: int = 0) -> None:
        self.policy = policy
        """``None``: no session timer at all; the peer's wishes are ignored."""
        self.interval: int | None = None
        """The session interval in force, seconds."""
        self.refresher = False
        """True if we refresh."""
        self._least = least
        """Greatest Min-SE seen in a 422 or in a request (section 7.4)."""
        self._since = 0.0
        self._supported_by_peer = False

    @property
    def refresh_at(self) -> float | None:
        """When to refresh: half the interval (section 7.2); ``None`` if that is not our part."""
        return self._since + self.interval / 2 if self.interval is not None and self.refresher else None

    @property
    def expires_at(self) -> float | None:
        """When to hang up: min(32 s, a third) before the session expires (section 10)."""
        if self.interval is None:
            return None
        return self._since + self.interval - min(32.0, self.interval / 3)

    # ---- as UAC ---------------------------------------------------------------------------------------------

    def request_fields(self) -> list[tuple[str, str]]:
        """Return Session-Expires and Min-SE for an INVITE or UPDATE that we send (sections 7.1, 7.4)."""
        if self.policy is None:
            return []
        fields = []
        interval = self.interval or self.policy.interval
        if interval is not None:
            value = max(interval, self._least, self.policy.least)
            fields.append(("Session-Expires", str(SessionExpires.of(value, self._wanted_refresher()))))
        if self._least or self.policy.least > LEAST:
            fields.append(("Min-SE", str(max(self._least, self.policy.least))))
        return fields

    def _wanted_refresher(self) -> Role | None:
        assert self.policy is not None
        if self.interval is None:
            return self.policy.refresher
        # Section 7.4: the role stays where it is; "uas" only towards a peer that knows the extension.
        if self.refresher:
            return "uac"
        return "uas" if self._supported_by_peer else None

    def too_small(self, response: Response) -> bool:
        """Take in a 422; True if a retry with the greater Min-SE makes sense (section 7.3)."""
        if self.policy is None or (least := response.min_se) is None:
            return False
        # A Min-SE no greater than what was asked for would only bring the same 422 again.
        if least.seconds <= max(self._least, self.policy.least, self.interval or self.policy.interval or 0):
            return False
        self._least = least.seconds
        return True

    def accepted(self, response: Response, now: float) -> None:
        """Take in the 2xx to an INVITE or UPDATE that we sent (section 7.2)."""
        if self.policy is None:
            return
        expires = response.session_expires
        if expires is None:
            # The peer does not know the extension; whether we go on alone is our choice: only if we asked for it.
            if self.policy.interval is None:
                self.interval = None
                return
            self._start(max(self.interval or self.policy.interval, self._least), True, now)
            return
        self._supported_by_peer = self._supported_by_peer or "timer" in response.require
        self._start(expires.seconds, expires.refresher != "uas", now)

    # ---- as UAS ---------------------------------------------------------------------------------------------

    def refusal(self, request: Request) -> MinSE | None:
        """Return the Min-SE for a 422 if the interval asked for is too small (section 9)."""
        expires = request.session_expires
        if self.policy is None or expires is None or expires.seconds >= self.policy.least:
            return None
        # A peer without the extension could not act on a 422: a proxy asked, and must live with the greater one.
        return MinSE(self.policy.least) if "timer" in request.supported else None

    def requested(self, request: Request) -> None:
        """Remember what an INVITE or UPDATE of the peer says (sections 7.4, 9)."""
        if (least := request.min_se) is not None:
            self._least = max(self._least, least.seconds)
        self._supported_by_peer = "timer" in request.supported or "timer" in request.require

    def answer(self, request: Request, now: float) -> list[tuple[str, str]]:
        """Return the fields of our 2xx to ``request`` and start the timer accordingly (section 9, table 2)."""
        if self.policy is None:
            return []
        supported = "timer" in request.supported or "timer" in request.require
        expires = request.session_expires
        if expires is not None:
            interval, wanted = expires.seconds, expires.refresher
        elif supported and self.policy.interval is not None:
            interval, wanted = self.policy.interval, None
        else:
            self.interval = None
            return []
        interval = max(interval, LEAST, request.min_se.seconds if request.min_se is not None else 0)
        refresher: Role
        if not supported:
            refresher = "uas"
        elif wanted in ("uac", "uas"):
            refresher = "uac" if wanted == "uac" else "uas"
        else:
            refresher = "uac"
        self._start(interval, refresher == "uas", now)
        fields = [("Session-Expires", str(SessionExpires.of(interval, refresher)))]
        return [*fields, ("Require", "timer")] if supported else fields

    def _start(self, interval: int, refresher: bool, now: float) -> None:
        self.interval = max(interval, LEAST)
        self.refresher = refresher
        self._since = now
