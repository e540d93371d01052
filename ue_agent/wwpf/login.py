"""The log-in of TR 23.701 figure 5.7.2-1, steps 4 to 7: HTTP Digest AKA on behalf of the browser (RFC 3310).

Pure: ``send`` puts the request to the operator's server, ``answer`` asks the agent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imskit.aka.challenge import AkaAlgorithm
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.errors import SipParseError
from ue_agent.wwpf.agent import ChallengeAnswer, LoginIdentity

MAXIMUM_CHALLENGES = 8
"""``WWW-Authenticate`` values that are looked at."""
MAXIMUM_LENGTH = 8192
"""Characters of one such value."""


class ServerAnswer(Protocol):
    """A response of the operator's server, as far as the log-in looks at it."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def challenges(self) -> Sequence[str]:
        """Values of its ``WWW-Authenticate`` headers."""


class LoginRefusedError(Exception):
    """The log-in cannot succeed; the text is fit for the user."""


@dataclass(frozen=True, slots=True)
class LoginResult[Answer]:
    """What the browser is to see."""

    answer: Answer
    authenticated: bool
    """The server has accepted the card's answer."""


def first_authorization(identity: LoginIdentity, realm: str, uri: str) -> str:
    """Return the ``Authorization`` value that names the subscriber and asks for a challenge.

    As in TS 24.229 section 5.1.1.2.2 and TS 33.220: nonce and response empty; the realm is the portal's host name.
    """
    return str(Credentials.digest(username=str.__str__(identity.impi), realm=realm, nonce="", uri=uri, response=""))


def choose_challenge(values: Sequence[str]) -> Challenge | None:
    """Return the first challenge that a card can answer: Digest AKA with quality ``auth`` (RFC 7616 section 3.7)."""
    for value in values[:MAXIMUM_CHALLENGES]:
        for text in _split(value):
            try:
                challenge = Challenge.parse(text, "WWW-Authenticate")
            except SipParseError:
                continue
            if (
                challenge.is_digest
                and challenge.realm is not None
                and challenge.nonce
                and AkaAlgorithm.parse(challenge.algorithm or "") is not None
                and (not challenge.qop or "auth" in challenge.qop)
            ):
                return challenge
    return None


async def log_in[Answer: ServerAnswer](
    *,
    identity: LoginIdentity,
    realm: str,
    uri: str,
    send: Callable[[str], Awaitable[Answer]],
    answer: Callable[[str], Awaitable[ChallengeAnswer]],
    challenged: Answer | None = None,
) -> LoginResult[Answer]:
    """Send the request with ``Authorization`` values until the server is satisfied.

    ``challenged`` is a 401 that the server has sent already.  A server that does not challenge is taken as it is.
    Raises ``LoginRefusedError``, and what ``send`` and ``answer`` raise.
    """
    response = challenged if challenged is not None else await send(first_authorization(identity, realm, uri))
    resynchronised = answered = renewed = False
    while response.status == 401:
        challenge = choose_challenge(response.challenges)
        if challenge is None:
            break
        if answered:
            # A nonce may have grown old in between (RFC 7616 section 3.3); anything else is a No.
            if not challenge.stale or renewed:
                raise LoginRefusedError("The operator did not accept the answer of this SIM card.")
            renewed = True
        reply = await answer(str(challenge))
        if reply.resync and resynchronised:
            raise LoginRefusedError(
                "The SIM card and the operator do not agree on their sequence numbers, not even after a new start."
            )
        answered, resynchronised = not reply.resync, resynchronised or reply.resync
        response = await send(reply.authorization)
    return LoginResult(response, answered and response.status < 400)


def _split(value: str) -> list[str]:
    """Cut a header value into its challenges: a new one begins where a token is followed by another token.

    ``Digest a="b, c", d=e, Basic realm="x"`` is two: the comma before a word that no ``=`` follows separates.
    """
    if len(value) > MAXIMUM_LENGTH:
        return []
    parts: list[str] = []
    start = at = 0
    quoted = False
    while at < len(value):
        character = value[at]
        if quoted and character == "\\":
            at += 1
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted and _begins_challenge(value, at + 1):
            parts.append(value[start:at])
            start = at + 1
        at += 1
    parts.append(value[start:])
    return [part.strip() for part in parts if part.strip()]


def _begins_challenge(value: str, at: int) -> bool:
    """Tell whether a scheme stands at ``at``, not ``param=value``: a token, then a space and no ``=``, or its end."""
    word = value[at : at + 128].lstrip(" \t")
    end = next((index for index, character in enumerate(word) if character in ' \t=,"'), len(word))
    return end > 0 and word[end:].lstrip(" \t")[:1] not in ("=", '"')
