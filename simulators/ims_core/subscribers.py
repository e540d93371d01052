"""The HSS: subscribers, their identities, and the authentication centre (TS 23.228, TS 33.203 clause 6.1)."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from imskit.aka.algorithm import AlgorithmSet
from imskit.aka.sqn import SqnGenerator, check_auts
from imskit.aka.subscription import NetworkSqnSettings, SubscriptionKeys
from imskit.aka.vector import AuthenticationVector
from imskit.config.model import setting
from imskit.secrets import Identity, Secret
from imskit.sip.wire.uri import SipUri, TelUri, Uri, parse_uri

_GLOBAL_NUMBER = re.compile(r"\+[0-9().-]*[0-9][0-9().-]*")
_VISUAL = str.maketrans("", "", "-.()")


_WILDCARD = re.compile(r"([^!]*)!([^!]+)!([^!]*)")
_RANGE_MEMBERS = 10_000
"""Members of ranges that are remembered; a forgotten one is made anew from its range."""


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


@dataclass(frozen=True)
class WebSubscriberConfig:
    """One subscriber without a card: a password, or a web server that vouches for it (TS 33.203 annexes N and U).

    With one ``!expression!`` in each identity it is a range (TS 23.003 clause 13.4A): what the expression matches is
    the same in all identities of a member, and each member registers and is called by itself.
    """

    impi: str = setting("private identity, such as alice@ims.example or guest!.*!@ims.example")
    impus: list[str] = setting("public identities, the default first")
    password: Secret[str] | None = setting("password of SIP digest", None)
    web_servers: list[str] = setting(
        "allowed WAF and WWSF identities (Allowed-WAF-WWSF-Identities, TS 29.229); none: no token", factory=list
    )
    display: str = setting("how the number is shown to people", "")

    def __post_init__(self) -> None:
        if not self.impus:
            raise ValueError("impus must name at least one public identity")
        if self.password is None and not self.web_servers:
            raise ValueError("without password and web_servers nobody could register: give one of them")
        ranges = {match[2] if (match := _WILDCARD.fullmatch(text)) else "" for text in (self.impi, *self.impus)}
        if len(ranges) > 1 or any(text.count("!") not in (0, 2) for text in (self.impi, *self.impus)):
            raise ValueError("impi and impus of a range have one !expression! each, all the same (TS 23.003 13.4A)")
        if self.is_range and self.password is not None:
            raise ValueError("members of a range have no password of their own")
        for pattern in ranges:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the expression {pattern} of the range cannot be read: {error}") from None

    @property
    def is_range(self) -> bool:
        """Whether it stands for many subscribers."""
        return "!" in self.impi

    def member(self, text: str, template: str) -> WebSubscriberConfig | None:
        """Return the member of the range whose identity made from ``template`` is ``text``."""
        match = _WILDCARD.fullmatch(template)
        if match is None or not (text.startswith(match[1]) and text.endswith(match[3])):
            return None
        part = text[len(match[1]) : len(text) - len(match[3])]
        if not (part.isascii() and part.isalnum() and len(part) <= 64) or not re.fullmatch(match[2], part):
            return None
        named = [_WILDCARD.sub(lambda wild: f"{wild[1]}{part}{wild[3]}", each) for each in (self.impi, *self.impus)]
        return replace(self, impi=named[0], impus=named[1:])


class NoCardError(LookupError):
    """The subscriber has no card: there is no authentication vector."""


class Subscriber:
    """One subscription: identities and the authentication centre's side of its card."""

    def __init__(self, config: SubscriberConfig | WebSubscriberConfig, number: int) -> None:
        self.number = number
        """Place in the configuration, from 1: names the subscriber where identities do not belong."""
        self.impi = Identity(config.impi)
        self.impus = tuple(Identity(impu) for impu in config.impus)
        self.display = config.display or str.__str__(self.impus[0])
        self.password: Secret[str] | None = None
        """Of SIP digest (TS 33.203 annex N)."""
        self.web_servers: frozenset[str] = frozenset()
        """Who may vouch for the subscriber (Allowed-WAF-WWSF-Identities); a change is `Hss.allow`'s."""
        self._algorithms: AlgorithmSet | None = None
        self.barred = frozenset[str]()
        self.gba_u = False
        """Whether the card keeps bootstrapped keys (TS 33.220 clause 4.4.6)."""
        if isinstance(config, WebSubscriberConfig):
            self.password, self.web_servers = config.password, frozenset(config.web_servers)
            return
        self.barred, self.gba_u = frozenset(config.barred), config.gba_u
        self._algorithms = config.algorithms()
        self._numbers = SqnGenerator(scheme=config.numbers.chosen())

    @property
    def usable(self) -> tuple[Identity, ...]:
        """The public identities that are not barred, the default first: P-Associated-URI."""
        return tuple(impu for impu in self.impus if impu not in self.barred)

    def vector(self, rand: bytes, now: float) -> AuthenticationVector:
        """Return a fresh vector for ``rand`` (16 unguessable octets); ``now`` is universal time in seconds."""
        return AuthenticationVector.generate(self._card(), rand, self._numbers.next(now))

    def resynchronise(self, rand: bytes, auts: bytes, now: float) -> None:
        """Take in the sequence number of the card; ``ResynchronisationError`` if AUTS is not the card's."""
        sqn = check_auts(self._card(), rand, auts)
        if sqn is None:
            raise ResynchronisationError("AUTS does not come from this subscriber's card (TS 33.102 6.3.5)")
        self._numbers.resynchronise(sqn, now)

    @property
    def has_card(self) -> bool:
        """Whether there are authentication vectors."""
        return self._algorithms is not None

    def _card(self) -> AlgorithmSet:
        if self._algorithms is None:
            raise NoCardError("the subscriber has no card")
        return self._algorithms


class Hss:
    """All subscribers, found by private or public identity.

    ``random`` returns that many unguessable octets, ``clock`` universal time in seconds.
    """

    def __init__(
        self,
        subscribers: Iterable[SubscriberConfig],
        random: Callable[[int], bytes],
        clock: Callable[[], float] = time.time,
        web: Iterable[WebSubscriberConfig] = (),
    ) -> None:
        self._random = random
        self._clock = clock
        web = list(web)
        configs: list[SubscriberConfig | WebSubscriberConfig] = [*subscribers, *(c for c in web if not c.is_range)]
        known = [Subscriber(config, number) for number, config in enumerate(configs, 1)]
        self._ranges = [(config, number) for number, config in enumerate(web, 1 + len(known)) if config.is_range]
        self._members: OrderedDict[str, Subscriber] = OrderedDict()
        self._allowed: dict[str, frozenset[str]] = {}
        """What `allow` has changed, by private identity."""
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
        found = self._by_impi.get(impi) or self._member(impi, lambda config: [config.impi])
        if found is None:
            raise UnknownSubscriberError("no subscriber has this private identity")
        return found

    def by_uri(self, uri: Uri) -> Subscriber | None:
        """Return the subscriber that ``uri`` names, in any of its spellings (sip, tel, user=phone)."""
        found = self._by_impu.get(self._key(uri))
        if found is not None or not self._ranges or not isinstance(uri, SipUri):
            return found
        return self._member(f"{uri.scheme}:{uri.user_text}@{uri.host.lower()}", lambda config: config.impus)

    def allow(self, impi: str, web_servers: Iterable[str]) -> Subscriber:
        """Change who may vouch for a subscriber (Cx PPR); ``UnknownSubscriberError`` if there is none."""
        subscriber = self.by_impi(impi)
        subscriber.web_servers = self._allowed[subscriber.impi] = frozenset(web_servers)
        return subscriber

    def _member(self, identity: str, templates: Callable[[WebSubscriberConfig], list[str]]) -> Subscriber | None:
        """Return the member of a range that ``identity`` names; the same object while it is remembered."""
        for config, number in self._ranges:
            for template in templates(config):
                if (member := config.member(identity, template)) is None:
                    continue
                subscriber = self._members.get(member.impi) or Subscriber(member, number)
                subscriber.web_servers = self._allowed.get(member.impi, subscriber.web_servers)
                self._members[member.impi] = subscriber
                self._members.move_to_end(member.impi)
                if len(self._members) > _RANGE_MEMBERS:
                    self._members.popitem(last=False)
                return subscriber
        return None

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
