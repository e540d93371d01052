"""Which P-CSCF to try, and how long to wait when all have failed (RFC 5626 section 4.5)."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.sip.wire.flow import Target


@dataclass(frozen=True)
class RetryPolicy:
    """Back-off between failed registrations (RFC 5626 section 4.5), seconds."""

    base: float = 30.0
    maximum: float = 1800.0


class PCscfList:
    """The proxies in order of preference, the one in use, and the failures since the last success."""

    def __init__(self, targets: tuple[Target, ...], retry: RetryPolicy, tokens: Tokens) -> None:
        self._targets = targets
        self._retry = retry
        self._tokens = tokens
        self._at = 0
        self._tried = 0
        self._failures = 0

    @property
    def current(self) -> Target | None:
        """The one in use; ``None`` before any was found."""
        return self._targets[self._at] if self._targets else None

    @property
    def name(self) -> str:
        """The one in use, in words for the user."""
        if self.current is None:
            return "the P-CSCF"
        host, port = self.current.address
        return f"the P-CSCF {host} port {port}"

    @property
    def fresh_round(self) -> bool:
        """Whether none has been tried since the last wait: the time to look for them anew."""
        return self._tried == 0

    def replace(self, targets: tuple[Target, ...]) -> None:
        """Take the result of a discovery; where the last one that was used is still there, it is left for the next."""
        failed = self.current if self._failures else None
        self._targets = targets
        self._tried = 0
        self._at = 0
        if failed in targets and len(targets) > 1:
            self._at = (targets.index(failed) + 1) % len(targets)

    def succeeded(self) -> None:
        """The registration stands: nothing has failed any more."""
        self._failures = self._tried = 0

    def next(self) -> bool:
        """Move on to the next one; False if every one has failed since the last wait."""
        self._at = (self._at + 1) % max(1, len(self._targets))
        self._tried += 1
        return self._tried < len(self._targets)

    def back_off(self) -> float:
        """Return how long to wait after another failed round: 50 to 100 % of base * 2**failures."""
        self._failures += 1
        self._tried = 0
        ceiling = min(self._retry.maximum, self._retry.base * 2.0 ** min(self._failures, 16))
        return ceiling * (0.5 + int(self._tokens(8), 16) / float(2**33))
