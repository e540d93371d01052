"""What a leg tells its owner: the steps of its life with their times, which also make the figures of a call."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Step(enum.Enum):
    """A step in the life of a leg; each is told once, except the last four."""

    ICE_STARTED = "ICE checks begin"
    ICE_CONNECTED = "ICE has selected a pair"
    DTLS_CONNECTED = "DTLS is done and the peer's fingerprint matches"
    FIRST_RECEIVED = "first RTP received"
    FIRST_SENT = "first RTP sent"
    LATCHED = "sends to the address that it heard"
    BYE = "the peer ended its RTP session"
    CLOSED = "the leg was closed"
    MEDIA_TIMEOUT = "neither RTP nor RTCP arrives"
    MEDIA_BACK = "RTP or RTCP arrives again"
    CONSENT_LOST = "the peer no longer answers STUN"
    FAILED = "the leg cannot be used"


@dataclass(frozen=True, slots=True)
class LegEvent:
    """A step, when it happened (``time.monotonic()`` seconds), and why if it is a failure."""

    step: Step
    at: float
    reason: str = ""


type OnLegEvent = Callable[[LegEvent], None]
"""Takes the events of a leg, on the event loop's thread."""
