"""Transaction timers as named profiles (RFC 3261 annex A, RFC 6026 section 8, TS 24.229 table 7.7.1).

A timer's value follows from T1, T2 and T4 alone, except C and D, which have floors of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Timer(Enum):
    """Every timer that a transaction may run, by its letter; the last ones have none in the RFCs."""

    # Members are singletons, and are looked up with every message; Enum's own is not in C.
    __hash__ = object.__hash__

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    E = "E"
    F = "F"
    G = "G"
    H = "H"
    I = "I"  # noqa: E741 - the standard's name
    J = "J"
    K = "K"
    L = "L"
    M = "M"
    TRYING = "trying"
    """Silence of the owner after which an INVITE is answered 100: 200 ms (RFC 3261 section 17.2.1)."""
    TRYING_NON_INVITE = "trying non-INVITE"
    """The same for other methods: when timer E of the peer reaches T2 (RFC 4320 section 4.1)."""
    CANCELLED = "cancelled"
    """64*T1 after a CANCEL went out the INVITE is given up (RFC 3261 section 9.1)."""
    UNANSWERED = "unanswered"
    """64*T1: the client of a non-INVITE request has given up, a response would come too late (RFC 4320)."""
    ABANDONED = "abandoned"
    """A server INVITE transaction that its owner has left alone: nothing in the RFCs ends it."""


@dataclass(frozen=True, slots=True)
class TimerProfile:
    """T1, T2, T4 and the two free values C and D, in seconds; the other timers follow."""

    t1: float = 0.5
    """Round-trip estimate: first retransmission interval."""
    t2: float = 4.0
    """Greatest interval of non-INVITE requests and INVITE responses."""
    t4: float = 5.0
    """How long a message may stay in the network."""
    c: float = 185.0
    """An INVITE without news is cancelled; must be above 3 minutes (RFC 3261 section 16.6 step 11)."""
    d: float = 32.0
    """Wait for retransmitted final responses to INVITE; at least 32 s (RFC 6026 section 8.4)."""
    trying: float = 0.2
    """Silence of the owner after which an INVITE is answered 100."""

    def __post_init__(self) -> None:
        if not 0 < self.t1 <= self.t2 or self.t4 <= 0 or self.trying < 0:
            raise ValueError("a timer profile needs 0 < T1 <= T2, T4 > 0 and trying >= 0")
        if self.c <= 180 or self.d < 32:
            raise ValueError("timer C must be above 180 s, timer D at least 32 s")

    @property
    def timeout(self) -> float:
        """64*T1: timers B, F, H, J, L and M."""
        return 64 * self.t1

    @property
    def trying_non_invite(self) -> float:
        """When timer E of the peer reaches T2: from here on 100 is allowed and due (RFC 4320 section 4.1)."""
        interval, total = self.t1, 0.0
        while interval < self.t2:
            total += interval
            interval = min(2 * interval, self.t2)
        return total

    @property
    def abandoned_invite(self) -> float:
        """Silence of the owner, longer than any timer C upstream, that ends a server INVITE transaction."""
        return 2 * self.c

    def initial(self, timer: Timer, *, reliable: bool) -> float | None:
        """Return the first value of ``timer``, ``None`` if it is not used.

        On reliable transports nothing is retransmitted (no A, E, G) and D, I, J and K are zero.
        """
        match timer:
            case Timer.A | Timer.E | Timer.G:
                return None if reliable else self.t1
            case Timer.D:
                return 0.0 if reliable else self.d
            case Timer.I | Timer.K:
                return 0.0 if reliable else self.t4
            case Timer.J:
                return 0.0 if reliable else self.timeout
            case Timer.C:
                return self.c
            case Timer.TRYING:
                return self.trying
            case Timer.TRYING_NON_INVITE:
                return self.trying_non_invite
            case Timer.ABANDONED:
                return self.abandoned_invite
            case _:
                return self.timeout


RFC3261 = TimerProfile()
"""Between elements of the core: T1 500 ms, T2 4 s, T4 5 s."""

TS24229_UE = TimerProfile(t1=2.0, t2=16.0, t4=17.0, d=130.0)
"""At the UE, and at the P-CSCF towards the UE (TS 24.229 table 7.7.1): D is above 128 s."""
