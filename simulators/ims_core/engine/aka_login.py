"""AKA at the S-CSCF (TS 24.229 clauses 5.4.1.2.1 to 5.4.1.2.3, TS 33.203 clause 6.1): subscribers with a card."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imskit.aka.challenge import AkaAlgorithm, Challenge, decode_auts
from imskit.aka.errors import AkaError
from imskit.aka.vector import AuthenticationVector, Success
from imskit.engine import Tokens
from imskit.sip import digest
from imskit.sip.wire.auth import AuthenticationInfo, Credentials
from imskit.sip.wire.auth import Challenge as DigestChallenge
from imskit.sip.wire.message import Request, Response, response_to
from simulators.ims_core.engine.refusals import refuse
from simulators.ims_core.subscribers import Hss, ResynchronisationError, Subscriber

_log = logging.getLogger(__name__)

REG_AWAIT_AUTH = 240.0
"""Seconds that a challenge stays good (TS 24.229 table 7.8.1: reg-await-auth)."""
MAXIMUM_PENDING = 10_000
"""Challenges that wait for an answer, of all subscribers."""
_PENDING_EACH = 8
"""The same of one subscriber: nobody can push out the challenges of others."""
_OVER_TLS = ("AKAv2-SHA-256",)
"""Algorithms for a UE that comes over TLS (TS 24.229 clause 5.4.1.2.1, TS 33.203 annex X)."""
_PROTECTED = frozenset({"yes", "tls-connected"})
"""Values of integrity-protected with which a challenge may be answered (TS 24.229 clause 5.4.1.2.2)."""
_BAD_CHALLENGES = 5
"""How often one registration may send back a challenge as bad before it is refused."""


@dataclass(frozen=True)
class _Pending:
    subscriber: Subscriber
    vector: AuthenticationVector
    expires: float
    bad: int
    algorithms: tuple[str, ...]
    shared: bool = False
    """Given to several REGISTERs, whatever their Call-ID."""


class AkaLogin:
    """Makes challenges and judges what answers them; ``algorithms`` are those of a UE without TLS, the first first."""

    def __init__(
        self, hss: Hss, domain: str, algorithms: Sequence[str], tokens: Tokens, *, protected_only: bool = False
    ) -> None:
        """``protected_only``: a challenge is answered inside a security agreement or TLS, or in vain."""
        for name in algorithms:
            if AkaAlgorithm.parse(name) is None:
                raise ValueError(f"{name} is no AKA digest algorithm")
        self._hss = hss
        self._domain = domain.lower()
        self._algorithms = tuple(algorithms)
        self._protected_only = protected_only
        self._tokens = tokens
        self._pending: OrderedDict[tuple[str, str], _Pending] = OrderedDict()

    @property
    def pending(self) -> int:
        """How many challenges wait for an answer."""
        return len(self._pending)

    def judge(
        self, request: Request, credentials: Credentials | None, subscriber: Subscriber, now: float
    ) -> Response | AuthenticationInfo:
        """Return the Authentication-Info for whom the card has proved, else what to answer."""
        key = self._key(subscriber, request, credentials, now)
        waiting = self._pending.get(key)
        protection = (credentials.get("integrity-protected") if credentials else None) or "no"
        algorithms = _OVER_TLS if protection == "tls-connected" else self._algorithms
        if (
            credentials is None
            or not (protection in _PROTECTED or not self._protected_only or credentials.auts is not None)
            or waiting is None
            or waiting.expires <= now
            or credentials.nonce != _nonce(waiting.vector)
        ):
            return self._challenge(request, subscriber, now, None, 0, algorithms)
        if not waiting.shared:
            # One that others were given too stays until it is answered rightly: nobody ends it for them.
            del self._pending[key]
        if credentials.auts is not None:
            # TS 24.229 5.4.1.2.3: a response beside auts is not looked at.
            return self._resynchronise(request, waiting, credentials.auts, now)
        if not credentials.response:
            # The UE has refused the challenge (MAC); another vector may do, but takes no room from others.
            if waiting.shared or waiting.bad + 1 >= _BAD_CHALLENGES:
                return refuse(request, 403, "the card refuses every challenge")
            return self._challenge(request, subscriber, now, None, waiting.bad + 1, algorithms)
        verified = self._verify(request, credentials, waiting)
        if isinstance(verified, AuthenticationInfo):
            self._pending.pop(key, None)
        return verified

    def _challenge(
        self,
        request: Request,
        subscriber: Subscriber,
        now: float,
        resync: tuple[bytes, bytes] | None,
        bad: int,
        algorithms: tuple[str, ...],
    ) -> Response:
        waiting = self._to_share(subscriber, request, now) if resync is None and not bad else None
        if waiting is not None:
            vector = waiting.vector
        else:
            try:
                vector = self._hss.vector(subscriber.impi, resync)
            except ResynchronisationError as error:
                return refuse(request, 403, str(error))
            self._make_room(subscriber, now)
            self._pending[subscriber.impi, request.call_id] = _Pending(
                subscriber, vector, now + REG_AWAIT_AUTH, bad, algorithms
            )
        response = response_to(request, 401, to_tag=self._tokens(16))
        # ck and ik are for the P-CSCF, which takes them out (TS 24.229 5.4.1.2.1, 5.2.2).
        keys = (("ik", vector.ik.reveal().hex()), ("ck", vector.ck.reveal().hex()))
        for name in algorithms:
            challenge = DigestChallenge.digest(
                self._domain, _nonce(vector), algorithm=name, qop=("auth",), opaque=self._tokens(8), more=keys
            )
            response.headers.add("WWW-Authenticate", challenge)
        _log.info("challenged %r%s", subscriber.impi, " after resynchronisation" if resync else "")
        return response

    def _key(
        self, subscriber: Subscriber, request: Request, credentials: Credentials | None, now: float
    ) -> tuple[str, str]:
        """Where the challenge of a REGISTER waits: under its Call-ID, or a shared one under that of another."""
        key = (subscriber.impi, request.call_id)
        if key in self._pending or credentials is None or not credentials.nonce:
            return key
        shared = (
            k for k, each in self._own(subscriber, now) if each.shared and credentials.nonce == _nonce(each.vector)
        )
        return next(shared, key)

    def _own(self, subscriber: Subscriber, now: float) -> list[tuple[tuple[str, str], _Pending]]:
        return [(k, each) for k, each in self._pending.items() if k[0] == subscriber.impi and each.expires > now]

    def _to_share(self, subscriber: Subscriber, request: Request, now: float) -> _Pending | None:
        """The challenge that is given again when a subscriber has as many as may be.

        So whoever sends REGISTERs in a user's name takes none of his challenges away, and uses up no more sequence
        numbers of his card.
        """
        own = self._own(subscriber, now)
        if len(own) < _PENDING_EACH or (subscriber.impi, request.call_id) in self._pending:
            return None
        key, newest = own[-1]
        self._pending[key] = newest = replace(newest, shared=True)
        return newest

    def _make_room(self, subscriber: Subscriber, now: float) -> None:
        while self._pending and next(iter(self._pending.values())).expires <= now:
            self._pending.popitem(last=False)
        own = [key for key in self._pending if key[0] == subscriber.impi]
        if len(own) >= _PENDING_EACH:
            del self._pending[own[0]]
        elif len(self._pending) >= MAXIMUM_PENDING:
            self._pending.popitem(last=False)

    def _resynchronise(self, request: Request, pending: _Pending, auts: str, now: float) -> Response:
        if pending.bad + 1 >= _BAD_CHALLENGES:
            return refuse(request, 403, "the card's sequence numbers do not settle")
        try:
            octets = decode_auts(auts)
        except AkaError as error:
            return refuse(request, 400, str(error))
        return self._challenge(
            request, pending.subscriber, now, (pending.vector.rand, octets), pending.bad + 1, pending.algorithms
        )

    def _verify(self, request: Request, credentials: Credentials, pending: _Pending) -> Response | AuthenticationInfo:
        name = credentials.algorithm or ""
        algorithm = AkaAlgorithm.parse(name)
        if algorithm is None or name.lower() not in {known.lower() for known in pending.algorithms}:
            return refuse(request, 400, "the digest algorithm was not offered")
        vector = pending.vector
        password = algorithm.password(Success(vector.xres, vector.ck, vector.ik))
        if not digest.verify(credentials, password, "REGISTER", request.body):
            _log.warning("wrong RES from %r", pending.subscriber.impi)
            return refuse(request, 403, "the answer to the challenge is wrong")
        return digest.authentication_info(credentials, password)


def _nonce(vector: AuthenticationVector) -> str:
    return Challenge(vector.rand, vector.autn).encode()
