"""The REGISTERs of one attempt: their ports and SPIs, the challenge, the card, the associations, the answer.

What an outcome means for the registration is `Registration`'s affair; here is how one step leads to the next
(`registration_attempt` lists them).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from imskit.aka.vector import AkaResult, MacFailure, Success, SyncFailure
from imskit.engine import Tokens
from imskit.ims.gm_path import GmPath
from imskit.ims.p_cscf_list import PCscfList
from imskit.ims.profile import UeProfile
from imskit.ims.register_login import BadChallenge, RegisterLogin
from imskit.ims.registration_attempt import SECONDS, Attempt, Step
from imskit.ims.registration_events import Output, SendRegister
from imskit.ims.security_agreement import NoAgreement, Protection, choose, client_values
from imskit.ims.security_sets import SecuritySets
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.message import Response

_log = logging.getLogger(__name__)

INVALID_CHALLENGES = 3
"""The third consecutive invalid challenge ends the attempt (TS 34.229-1 case 9.1)."""
MAXIMUM_CHALLENGES = 6
"""Challenges in a row, valid or not, that are answered within one attempt."""


@dataclass(frozen=True)
class Failure:
    """The attempt cannot go on; ``reason`` is a sentence for the user."""

    reason: str
    elsewhere: bool = False
    """Another P-CSCF is worth a try."""


class RegisterExchange:
    """See the module's text; at most one attempt at a time."""

    def __init__(
        self,
        profile: UeProfile,
        tokens: Tokens,
        sets: SecuritySets,
        proxies: PCscfList,
        emit: Callable[[Output], None],
    ) -> None:
        self._profile = profile
        self._tokens = tokens
        self._sets = sets
        self._proxies = proxies
        self._emit = emit
        self.login = RegisterLogin(profile, tokens)
        self.attempt: Attempt | None = None
        """The one under way."""
        self._outbound = profile.security.protection is Protection.TLS
        """Whether RFC 5626 is asked for: behind TLS the UE is reached over its own connection only."""

    def at(self, step: Step) -> bool:
        """Tell whether an attempt is at this step."""
        return self.attempt is not None and self.attempt.step is step

    def enter(self, step: Step, now: float) -> None:
        """The attempt is at this step from now on."""
        assert self.attempt is not None
        self.attempt.step, self.attempt.until = step, now + SECONDS[step]

    # ---- requests -----------------------------------------------------------------------------------------------

    def prepare(self, now: float, authorization: str | None = None) -> None:
        """Send the next REGISTER, with fresh ports and SPIs if there is to be an agreement."""
        assert self.attempt is not None
        self.attempt.authorization = authorization
        if self._profile.security.ipsec:
            self.enter(Step.RESERVATION, now)
            self._sets.reserve()
        else:
            self.send(now)

    def send(self, now: float) -> None:
        """Send the REGISTER that everything is there for."""
        attempt, ports = self.attempt, self._sets.ports
        assert attempt is not None
        path = self._sets.new or self._sets.current or self.clear()
        assert path is not None, "no attempt begins before a P-CSCF is known"
        if ports is not None:
            attempt.client = client_values(self._profile.security, ports)
        request = attempt.binding.register(
            self._profile,
            path,
            expires=attempt.expires,
            authorization=attempt.authorization or self.login.authorization(),
            security_client=attempt.client,
            outbound=self._outbound,
        )
        attempt.path = path
        attempt.key = f"register-{attempt.binding.cseq}-{self._tokens(8)}"
        self.enter(Step.RESPONSE, now)
        self._emit(SendRegister(attempt.key, request, path.hop, path.sent_by(keep=True)))

    def clear(self) -> GmPath | None:
        """The way without an agreement, where every registration begins; ``None`` before a P-CSCF is known."""
        target = self._proxies.current
        return GmPath(target, self._profile.local) if target is not None else None

    # ---- what the core wants otherwise --------------------------------------------------------------------------

    def lengthen(self, response: Response, now: float) -> bool:
        """Ask once for the time that a 423 wants; False if that makes no sense."""
        attempt = self.attempt
        assert attempt is not None
        try:
            minimum = response.min_expires
        except SipParseError:
            minimum = None
        if minimum is None or minimum <= attempt.expires or attempt.raised:
            return False
        attempt.expires, attempt.raised = minimum, True
        self._sets.abandon()
        self.prepare(now)
        return True

    def give_up_outbound(self, response: Response, now: float) -> bool:
        """Register without RFC 5626 where the first hop does not know it (439); False if that is not the point."""
        if response.status != 439 or not self._outbound:
            return False
        self._outbound = False
        self.prepare(now)
        return True

    # ---- challenges ---------------------------------------------------------------------------------------------

    def challenged(self, response: Response, now: float) -> Failure | None:
        """Take a 401."""
        attempt = self.attempt
        assert attempt is not None
        attempt.challenges += 1
        if attempt.challenges > MAXIMUM_CHALLENGES:
            return Failure("the core goes on challenging: it does not accept the card's answers")
        if self._sets.new is not None:
            # What the card answered over the new set was not taken: that set is void, the chain begins once more.
            self._sets.abandon()
            if attempt.initial:
                self.login.forget()
            self.prepare(now)
            return None
        try:
            question = self.login.read(response)
            if self._sets.ports is not None:
                attempt.choice = choose(response, self._profile.security, self._sets.ports)
        except BadChallenge as error:
            return Failure(str(error))
        except NoAgreement as error:
            return Failure(str(error), elsewhere=True)
        self.enter(Step.CARD, now)
        self._emit(question)
        return None

    def answered(self, result: AkaResult, now: float) -> Failure | None:
        """Take what the card made of the challenge."""
        attempt = self.attempt
        assert attempt is not None
        try:
            if isinstance(result, Success):
                return self._valid(attempt, result, now)
            return self._invalid(attempt, result, now)
        except SipParseError as error:
            return Failure(f"the core's challenge cannot be answered: {error}")

    def _valid(self, attempt: Attempt, run: Success, now: float) -> Failure | None:
        attempt.invalid = 0
        attempt.authorization = self.login.succeed(run)
        path, choice, ports = attempt.path, attempt.choice, self._sets.ports
        if ports is None or path is None or choice is None:
            self.send(now)
            return None
        if (peer := attempt.peer()) is None:
            return Failure(f"the IP address of {self._proxies.name} is not known", elsewhere=True)
        self.enter(Step.INSTALLATION, now)
        agreement = choice.agreement(path.hop, self._profile.local[0], peer, ports, run)
        self._sets.install(agreement, choice.verify, now)
        return None

    def _invalid(self, attempt: Attempt, verdict: SyncFailure | MacFailure, now: float) -> Failure | None:
        """Tell the core what is wrong with its challenge, with a new Security-Client (TS 24.229 clause 5.1.1.5.3)."""
        wrong_mac = isinstance(verdict, MacFailure)
        attempt.invalid += 1
        if attempt.invalid >= INVALID_CHALLENGES:
            kind = "does not belong to this card's network" if wrong_mac else "is out of sequence"
            return Failure(f"gave up: {INVALID_CHALLENGES} challenges in a row were invalid; the last one {kind}")
        _log.info("the card does not accept the network's MAC" if wrong_mac else "the card asks to resynchronise")
        self.prepare(now, self.login.refuse(verdict))
        return None
