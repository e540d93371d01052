"""The Authorization of REGISTER: which challenge is taken, what the card made of it, what is said without a new one."""

from __future__ import annotations

from dataclasses import replace

from imskit.aka.challenge import Challenge, encode_auts
from imskit.aka.errors import AkaError
from imskit.aka.vector import MacFailure, Success, SyncFailure
from imskit.engine import Tokens
from imskit.ims.profile import UeProfile
from imskit.ims.register_response import Login, choose_login
from imskit.ims.registration_events import AskCard
from imskit.ims.security_agreement import Protection
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.message import Response

_TLS_ALGORITHMS = frozenset({"akav2-sha-256"})
"""AKA over TLS: what the card answers to an older version, a man in the middle could use (TS 33.203 annex X)."""


class BadChallenge(Exception):
    """A challenge that cannot be answered: the attempt is abandoned (TS 24.229 clause 5.1.1.5.1)."""


class RegisterLogin:
    """See the module's text.  `DigestError` (a `SipParseError`) says that an answer cannot be computed."""

    def __init__(self, profile: UeProfile, tokens: Tokens) -> None:
        self._profile = profile
        self._tokens = tokens
        self._uri = f"sip:{profile.domain}"
        self._last: Login | None = None
        """The last challenge that the card has answered."""
        self._asked: Login | None = None
        self.rand: bytes | None = None
        """Of the challenge that the card is to answer."""

    def forget(self) -> None:
        """A new registration has nothing of the one before."""
        self._last = None

    def authorization(self) -> str:
        """Credentials without a fresh challenge: empty at first, then from the last one (5.1.1.2.1, 5.1.1.4.1)."""
        if self._last is not None and self._last.password is not None:
            return self._answer(self._last, self._last.password)
        return str(
            Credentials.digest(
                username=str.__str__(self._profile.impi),
                realm=self._profile.domain,
                nonce="",
                uri=self._uri,
                response="",
            )
        )

    def read(self, response: Response) -> AskCard:
        """Take the challenge of a 401 for the card; raises `BadChallenge`."""
        tls = self._profile.security.protection is Protection.TLS
        login = choose_login(response, _TLS_ALGORITHMS if tls else None)
        if login is None:
            kind = "AKAv2-SHA-256, which TLS needs" if tls else "AKA algorithm that this device knows"
            raise BadChallenge(f"the core's challenge offers no {kind}")
        try:
            challenge = Challenge.decode(login.challenge.nonce or "")
        except AkaError as error:
            raise BadChallenge(f"the core's challenge cannot be used: {error}") from None
        self._asked, self.rand = login, challenge.rand
        return AskCard(challenge.rand, challenge.autn)

    def succeed(self, run: Success) -> str:
        """Return the answer to the challenge that was read."""
        assert self._asked is not None
        password = self._asked.algorithm.password(run)
        self._last = replace(self._asked, password=password)
        return self._answer(self._last, password)

    def refuse(self, verdict: SyncFailure | MacFailure) -> str:
        """Tell the core what is wrong with its challenge: AUTS, or for a wrong MAC nothing (5.1.1.5.3)."""
        assert self._asked is not None
        auts = encode_auts(verdict.auts) if isinstance(verdict, SyncFailure) else None
        return self._answer(self._asked, None, auts)

    def _answer(self, login: Login, password: Secret[bytes] | None, auts: str | None = None) -> str:
        login.count += 1
        credentials = digest.answer(
            login.challenge,
            username=str.__str__(self._profile.impi),
            password=password,
            method="REGISTER",
            uri=self._uri,
            nc=login.count,
            cnonce=self._tokens(16),
            auts=auts,
        )
        return str(credentials)
