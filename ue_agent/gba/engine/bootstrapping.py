"""One bootstrapping run over Ub (TS 33.220 clauses 4.5.2, 5.3.2; TS 24.109 clause 4).

    GET /, private identity          ->  401 with RAND and AUTN (AKAv1-MD5, qop=auth-int)
    GET / with the card's answer     ->  200 with B-TID and lifetime, and the BSF's proof that it knows RES

The engine contract of ``imskit.engine``: outputs ask for the request and for the card; events complete them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from imskit.aka.challenge import AkaAlgorithm, encode_auts
from imskit.aka.challenge import Challenge as AkaChallenge
from imskit.aka.errors import AkaError
from imskit.aka.gba import MEDIA_TYPE, Bootstrapped, BootstrappingInfo, InCard, bootstrap_key
from imskit.aka.vector import AkaResult, MacFailure, SyncFailure
from imskit.engine import Tick, Tokens
from imskit.secrets import Identity, Secret
from imskit.sip import digest
from imskit.sip.wire.auth import AuthenticationInfo, Challenge, Credentials
from imskit.sip.wire.errors import SipParseError

RUN_SECONDS = 15.0
"""Seconds after which a run that has not ended is given up."""
PATH = "/"
_QOP = "auth-int"
_ALGORITHM = "AKAv1-MD5"
_MAX_CHALLENGES = 8


@dataclass(frozen=True, slots=True)
class Start:
    """Begin."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The BSF's response; ``today`` is universal time, which lifetimes are compared with."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    today: datetime


@dataclass(frozen=True, slots=True)
class HttpFailed:
    """There was no response."""

    reason: str


@dataclass(frozen=True, slots=True)
class CardAnswer:
    """What the card said to ``AskCard``."""

    result: AkaResult | InCard


@dataclass(frozen=True, slots=True)
class CardFailed:
    """The card did not answer."""

    reason: str


type Event = Start | HttpAnswer | HttpFailed | CardAnswer | CardFailed | Tick


@dataclass(frozen=True, slots=True)
class Request:
    """Send ``GET /`` to the BSF with this ``Authorization``; answer with ``HttpAnswer`` or ``HttpFailed``."""

    authorization: str


@dataclass(frozen=True, slots=True)
class AskCard:
    """Put the challenge to the card; answer with ``CardAnswer`` or ``CardFailed``."""

    rand: bytes
    autn: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The run has succeeded."""

    run: Bootstrapped


class Cause(Enum):
    """Why a run has failed."""

    BSF = "bsf"
    """The BSF cannot be reached, refuses, or answers wrongly."""
    WRONG_NETWORK = "wrong-network"
    """The card does not accept the challenge, or the BSF could not prove that it knows RES."""
    CARD = "card"
    """The card has failed."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The run has failed; the text is fit for the user."""

    cause: Cause
    reason: str


type Output = Request | AskCard | Done | Failed


class Bootstrapping:
    """One run.  See ``imskit.engine`` for ``token``."""

    def __init__(self, impi: Identity, bsf: str, token: Tokens) -> None:
        self._impi = impi
        self._bsf = bsf.lower()
        self._token = token
        self._outputs: deque[Output] = deque()
        self._ends_at: float | None = None
        self._over = False
        self._challenge: Challenge | None = None
        self._rand = b""
        self._credentials: Credentials | None = None
        self._result: AkaResult | InCard | None = None
        self._resynchronised = self._renewed = False

    def handle(self, event: Event, now: float) -> None:
        """Take in an event; after ``Done`` or ``Failed`` nothing has an effect."""
        if self._over:
            return
        if self._ends_at is not None and now >= self._ends_at:
            self._fail(Cause.BSF, f"the bootstrapping with {self._bsf} took more than {RUN_SECONDS:.0f} s")
            return
        match event:
            case Start():
                self._ends_at = now + RUN_SECONDS
                impi = str.__str__(self._impi)
                first = Credentials.digest(username=impi, realm=self._bsf, nonce="", uri=PATH, response="")
                self._outputs.append(Request(str(first)))
            case HttpAnswer():
                self._answered(event)
            case HttpFailed(reason):
                self._fail(Cause.BSF, reason)
            case CardAnswer(result):
                self._card_answered(result)
            case CardFailed(reason):
                self._fail(Cause.CARD, reason)
            case Tick():
                pass

    def poll(self) -> Output | None:
        """Return the next output, ``None`` if there is none."""
        return self._outputs.popleft() if self._outputs else None

    def deadline(self) -> float | None:
        """Return when ``Tick`` is due."""
        return None if self._over else self._ends_at

    # ---- Ub

    def _answered(self, answer: HttpAnswer) -> None:
        if answer.status == 401:
            self._challenged(answer)
        elif answer.status != 200:
            refused = answer.status in (403, 404)
            words = "does not accept this SIM card" if refused else f"answered with {answer.status}"
            self._fail(Cause.BSF, f"the bootstrapping server {self._bsf} {words}")
        elif self._credentials is None or self._result is None or not isinstance(password := self._password(), Secret):
            self._fail(Cause.BSF, f"the bootstrapping server {self._bsf} did not ask for the SIM card's answer")
        else:
            self._accepted(answer, password)

    def _challenged(self, answer: HttpAnswer) -> None:
        challenges = self._for_card(_values(answer, "www-authenticate"))
        if not challenges:
            self._fail(Cause.BSF, f"the bootstrapping server {self._bsf} sends no challenge for a SIM card")
            return
        # A challenge that somebody got from another server for our identity must not be answered here: the answer would
        # log him in there.
        challenge = next((own for own in challenges if (own.realm or "").lower() == self._bsf), None)
        if challenge is None:
            realm = (challenges[0].realm or "")[:255]
            self._fail(Cause.BSF, f"the bootstrapping server {self._bsf} calls itself {realm!r}: is gba.bsf right?")
            return
        if self._credentials is not None and not isinstance(self._result, SyncFailure):
            # An answer was sent and refused; only a nonce that grew old is worth another, once (RFC 7616 3.3).
            if not challenge.stale or self._renewed:
                self._fail(Cause.BSF, f"the bootstrapping server {self._bsf} did not accept the SIM card's answer")
                return
            self._renewed = True
        try:
            aka = AkaChallenge.decode(challenge.nonce or "")
        except AkaError as error:
            self._fail(Cause.BSF, f"the challenge of {self._bsf} cannot be read: {error}")
            return
        self._challenge, self._rand = challenge, aka.rand
        self._outputs.append(AskCard(aka.rand, aka.autn))

    @staticmethod
    def _for_card(values: list[str]) -> list[Challenge]:
        """The challenges that Ub allows, narrowed to auth-int."""
        found = []
        for value in values[:_MAX_CHALLENGES]:
            try:
                challenge = Challenge.parse(value, "WWW-Authenticate")
            except SipParseError:
                continue
            algorithm = (challenge.algorithm or "").lower()
            if challenge.is_digest and algorithm == _ALGORITHM.lower() and _QOP in challenge.qop:
                found.append(challenge.with_("qop", _QOP))
        return found

    def _accepted(self, answer: HttpAnswer, password: Secret[bytes]) -> None:
        assert self._credentials is not None
        try:
            infos = _values(answer, "authentication-info")
            proven = bool(infos) and digest.verify_info(
                AuthenticationInfo.parse(infos[0]), self._credentials, password, answer.body
            )
        except SipParseError:
            proven = False
        if not proven:
            # The document is protected by this proof alone: Ub is plain HTTP.
            self._fail(Cause.WRONG_NETWORK, f"{self._bsf} could not prove that it is the operator's")
            return
        kind = next(iter(_values(answer, "content-type")), "").partition(";")[0].strip().lower()
        try:
            if kind not in (MEDIA_TYPE, "application/xml", "text/xml"):
                raise AkaError(f"its type is {kind or 'missing'}, not {MEDIA_TYPE}", "TS 24.109 4.3.3")
            info = BootstrappingInfo.decode(answer.body)
            ks = None
            if not isinstance(self._result, InCard):
                assert self._result is not None
                assert not isinstance(self._result, MacFailure | SyncFailure)
                ks = bootstrap_key(self._result.ck, self._result.ik)
        except AkaError as error:
            self._fail(Cause.BSF, f"what {self._bsf} sent cannot be used: {error}")
            return
        if info.lifetime <= answer.today:
            self._fail(Cause.BSF, f"the keys of {self._bsf} have ended already; is this device's clock right?")
            return
        self._over = True
        self._outputs.append(Done(Bootstrapped(self._impi, self._rand, info, ks)))

    # ---- card

    def _card_answered(self, result: AkaResult | InCard) -> None:
        challenge = self._challenge
        if challenge is None:
            return
        self._result = result
        auts = None
        if isinstance(result, MacFailure):
            self._fail(
                Cause.WRONG_NETWORK,
                "The SIM card does not recognise the operator: the challenge was not made with this card's key.",
            )
            return
        if isinstance(result, SyncFailure):
            if self._resynchronised:
                self._fail(Cause.BSF, "the SIM card and the operator do not agree on their sequence numbers")
                return
            self._resynchronised = True
            auts = encode_auts(result.auts)
        try:
            self._credentials = digest.answer(
                challenge,
                username=str.__str__(self._impi),
                password=self._password(),
                method="GET",
                uri=PATH,
                cnonce=self._token(32),
                auts=auts,
            )
        except SipParseError as error:
            self._fail(Cause.BSF, f"the challenge of {self._bsf} cannot be answered: {error}")
            return
        self._outputs.append(Request(str(self._credentials)))

    def _password(self) -> Secret[bytes] | None:
        match self._result:
            case InCard(res):
                return res
            case None | MacFailure() | SyncFailure():
                return None
            case success:
                algorithm = AkaAlgorithm.parse(_ALGORITHM)
                assert algorithm is not None
                return algorithm.password(success)

    def _fail(self, cause: Cause, reason: str) -> None:
        self._over = True
        self._outputs.append(Failed(cause, reason))


def _values(answer: HttpAnswer, name: str) -> list[str]:
    return [value for own, value in answer.headers if own.lower() == name]
