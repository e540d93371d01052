"""The HSS: subscribers, their identities, and the authentication centre (TS 23.228, TS 33.203 clause 6.1)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imskit.aka.sqn import SqnGenerator, check_auts
from imskit.aka.subscription import NetworkSqnSettings, SubscriptionKeys
from imskit.aka.vector import AuthenticationVector
from imskit.config.model import setting
from imskit.secrets import Identity
from imskit.sip.wire.uri import SipUri, TelUri, Uri, parse_uri

_GLOBAL_NUMBER = re.compile(r"\+[0-9().-]*[0-9][0-9().-]*")
_VISUAL = str.maketrans("", "", "-.()")


class UnknownSubscriberError(LookupError):
    """Nobody here has this identity."""


class ResynchronisationError(ValueError):
    """An AUTS that the subscriber's card has not made (TS 33.102 clause 6.3.5)."""


@dataclass(frozen=True, repr=False)
class SubscriberConfig(SubscriptionKeys):
    """One subscriber.  Keys are not shown."""

    impi: str = setting("private identity")
    impus: list[str] = setting("public identities, the default first")
    gba_u: bool = setting("bootstrapped keys stay in the card: GBA_U, in the subscriber's security settings", False)
    numbers: NetworkSqnSettings = setting("sequence numbers", factory=NetworkSqnSettings)
    display: str = setting("how the number is shown to people", "")
    barred: list[str] = setting("public identities that may register but not be used", factory=list)

    def __post_init__(self) -> None:
        SubscriptionKeys.__post_init__(self)
        if not self.impus:
            raise ValueError("impus must name at least one public identity")


class Subscriber:
    """One subscription: identities and the authentication centre's side of its card."""

    def __init__(self, config: SubscriberConfig, number: int) -> None:
        self.number = number
        """Place in the configuration, from 1: names the subscriber where identities do not belong."""
        self.impi = Identity(config.impi)
        self.impus = tuple(Identity(impu) for impu in config.impus)
        self.barred = frozenset(config.barred)
        self.display = config.display or str.__str__(self.impus[0])
        self.gba_u = config.gba_u
        """Whether the card keeps bootstrapped keys (TS 33.220 clause 4.4.6)."""
        self._algorithms = config.algorithms()
        self._numbers = SqnGenerator(scheme=config.numbers.chosen())

    @property
    def usable(self) -> tuple[Identity, ...]:
        """The public identities that are not barred, the default first: P-Associated-URI."""
        return tuple(impu for impu in self.impus if impu not in self.barred)

    def vector(self, rand: bytes, now: float) -> AuthenticationVector:
        """Return a fresh vector for ``rand`` (16 unguessable octets); ``now`` is universal time in seconds."""
        return AuthenticationVector.generate(self._algorithms, rand, self._numbers.next(now))

    def resynchronise(self, rand: bytes, auts: bytes, now: float) -> None:
        """Take in the sequence number of the card; ``ResynchronisationError`` if AUTS is not the card's."""
        sqn = check_auts(self._algorithms, rand, auts)
        if sqn is None:
            raise ResynchronisationError("AUTS does not come from this subscriber's card (TS 33.102 6.3.5)")
        self._numbers.resynchronise(sqn, now)


class Hss:
    """All subscribers, found by private or public identity.

    ``random`` returns that many unguessable octets, ``clock`` universal time in seconds.
    """

    def __init__(
        self,
        subscribers: Iterable[SubscriberConfig],
        random: Callable[[int], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._random = random
        self._clock = clock
        known = [Subscriber(config, number) for number, config in enumerate(subscribers, 1)]
        uris = {impu: parse_uri(impu) for subscriber in known for impu in subscriber.impus}
        self._hosts = frozenset(uri.host.lower() for uri in uris.values() if isinstance(uri, SipUri))
        """Only at these hosts is a number in a SIP URI one of ours."""
        self._by_impi: dict[str, Subscriber] = {}
        self._by_impu: dict[str, Subscriber] = {}
        for subscriber in known:
            if subscriber.impi in self._by_impi:
                raise ValueError(f"two subscribers have the private identity {subscriber.impi!r}")
            self._by_impi[subscriber.impi] = subscriber
            for impu in subscriber.impus:
                key = self._key(uris[impu])
                if self._by_impu.get(key, subscriber) is not subscriber:
                    raise ValueError(f"two subscribers have the public identity {impu!r}")
                self._by_impu[key] = subscriber

    def by_impi(self, impi: str) -> Subscriber:
        """Return the subscriber with this private identity, or raise ``UnknownSubscriberError``."""
        try:
            return self._by_impi[impi]
        except KeyError:
            raise UnknownSubscriberError("no subscriber has this private identity") from None

    def by_uri(self, uri: Uri) -> Subscriber | None:
        """Return the subscriber that ``uri`` names, in any of its spellings (sip, tel, user=phone)."""
        return self._by_impu.get(self._key(uri))

    def vector(self, impi: str, resync: tuple[bytes, bytes] | None = None) -> AuthenticationVector:
        """Return a fresh vector, after resynchronisation with (RAND, AUTS) if given (Cx MAR, Zh)."""
        subscriber = self.by_impi(impi)
        if resync is not None:
            subscriber.resynchronise(*resync, self._clock())
        return subscriber.vector(self._random(16), self._clock())

    def usable(self, uri: Uri) -> bool:
        """Whether ``uri`` names a subscriber by an identity that is not barred."""
        subscriber = self.by_uri(uri)
        return subscriber is not None and self._key(uri) in {self._key(parse_uri(impu)) for impu in subscriber.usable}

    def _key(self, uri: Uri) -> str:
        """What all spellings of one public identity share: the number, or user and host (TS 23.003 clause 13.4)."""
        if isinstance(uri, TelUri):
            return _number_key(uri.digits, uri.parameters.get("phone-context"))
        if isinstance(uri, SipUri):
            user, host = uri.user_text, uri.host.lower()
            number, _, _ = user.partition(";")
            if host in self._hosts and _GLOBAL_NUMBER.fullmatch(number):
                return _number_key(number.translate(_VISUAL), None)
            return f"sip:{user}@{host}"
        return str(uri)


def _number_key(digits: str, context: str | None) -> str:
    # A local number means something within its context only (RFC 3966 section 5.1.5).
    return f"tel:{digits}" if digits.startswith("+") else f"tel:{digits};{(context or '').lower()}"
