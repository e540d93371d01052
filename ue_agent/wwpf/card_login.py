"""The agent's side of the log-in: turns the card's answer to RAND and AUTN into an ``Authorization`` value.

RES, CK and IK are used here and go no further.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable

from imskit.aka.challenge import AkaAlgorithm, encode_auts
from imskit.aka.challenge import Challenge as AkaChallenge
from imskit.aka.errors import AkaError
from imskit.aka.vector import AkaResult, MacFailure, SyncFailure
from imskit.sip import digest
from imskit.sip.wire.auth import Challenge
from imskit.sip.wire.errors import SipParseError
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity

_log = logging.getLogger(__name__)

type Authenticate = Callable[[bytes, bytes], Awaitable[AkaResult]]
"""Puts RAND and AUTN to the card; raises ``AgentError`` when there is none to ask."""


async def answer_challenge(
    identity: LoginIdentity, authenticate: Authenticate, challenge: str, method: str, uri: str
) -> ChallengeAnswer:
    """Answer one challenge with the card (RFC 3310 sections 3.3, 3.4; RFC 4169).

    Raises AgentError: ``wrong-network`` when the card does not accept AUTN, ``internal`` for a challenge that is none.
    """
    try:
        parsed = Challenge.parse(challenge, "WWW-Authenticate")
        algorithm = AkaAlgorithm.parse(parsed.algorithm or "")
        if algorithm is None or parsed.nonce is None:
            raise AgentError("internal", "The server's challenge is not one for a SIM card.")
        aka = AkaChallenge.decode(parsed.nonce)
    except (SipParseError, AkaError) as error:
        raise AgentError("internal", f"The server's challenge cannot be read: {error}.") from error
    result = await authenticate(aka.rand, aka.autn)
    if isinstance(result, MacFailure):
        _log.warning("log-in: the card does not accept the network's challenge (wrong MAC)")
        raise AgentError(
            "wrong-network",
            "The SIM card does not recognise the operator: the challenge was not made with this card's key.",
        )
    resync = isinstance(result, SyncFailure)
    if resync:
        _log.info("log-in: the card asks to resynchronise")
    try:
        credentials = digest.answer(
            parsed,
            username=str.__str__(identity.impi),
            password=None if isinstance(result, SyncFailure) else algorithm.password(result),
            method=method,
            uri=uri,
            cnonce=secrets.token_hex(16),
            auts=encode_auts(result.auts) if isinstance(result, SyncFailure) else None,
        )
    except SipParseError as error:
        raise AgentError("internal", f"The server's challenge cannot be answered: {error}.") from error
    return ChallengeAnswer(str(credentials), resync)
