"""The log-in of TR 23.701 figure 5.7.2-1, steps 4 to 7, on behalf of the browser: HTTP Digest AKA (RFC 3310), or HTTP
Digest with a bootstrapped key where the server asks for one (GBA, TS 24.109 clause 5).

Pure: ``send`` puts the request to the operator's server, ``answer`` and ``answer_naf`` ask the agent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from imskit.aka.challenge import AkaAlgorithm
from imskit.aka.gba import parse_naf_realm
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.errors import SipParseError
from ue_agent.wwpf.agent import AgentError, ChallengeAnswer, LoginIdentity

MAXIMUM_CHALLENGES = 8
"""``WWW-Authenticate`` values that are looked at."""
MAXIMUM_LENGTH = 8192
"""Characters of one such value."""
_NAF_ALGORITHMS = ("MD5", "SHA-256", "SHA-512-256")


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


def choose_naf_challenge(values: Sequence[str], host: str | None = None) -> Challenge | None:
    """Return the first challenge that asks for a bootstrapped key, with an algorithm of RFC 7616.

    ``LoginRefusedError`` if it asks for the key of another server than ``host``: that is what a phishing page does.
    """
    for value in values[:MAXIMUM_CHALLENGES]:
        for text in _split(value):
            try:
                challenge = Challenge.parse(text, "WWW-Authenticate")
            except SipParseError:
                continue
            realms = parse_naf_realm(challenge.realm or "")
            if not challenge.is_digest or not challenge.nonce or not realms:
                continue
            if host is not None and set(realms.values()) != {host.lower()}:
                raise LoginRefusedError(f"{host} asks for a key that belongs to another server.")
            if (challenge.algorithm or "MD5").upper().removesuffix("-SESS") in _NAF_ALGORITHMS:
                return challenge
    return None


def asks_for_card(values: Sequence[str]) -> bool:
    """Tell whether a 401 asks for something that only the SIM card can answer."""
    return choose_challenge(values) is not None or choose_naf_challenge(values) is not None


async def log_in[Answer: ServerAnswer](
    *,
    identity: LoginIdentity,
    realm: str,
    uri: str,
    send: Callable[[str | None], Awaitable[Answer]],
    answer: Callable[[str], Awaitable[ChallengeAnswer]],
    challenged: Answer | None = None,
    answer_naf: Callable[[str, bool], Awaitable[str]] | None = None,
) -> LoginResult[Answer]:
    """Send the request with ``Authorization`` values until the server is satisfied.

    ``challenged`` is a 401 that the server has sent already.  A server that does not challenge is taken as it is.
    With ``answer_naf`` (challenge, whether to bootstrap anew) GBA goes first, and the server is not told who asks until
    it turns out to want the card itself; without a key the card is tried.
    Raises ``LoginRefusedError``, and what ``send``, ``answer`` and ``answer_naf`` raise.
    """
    first = first_authorization(identity, realm, uri)
    if challenged is not None:
        response = challenged
    else:
        response = await send(None if answer_naf is not None else first)
        if answer_naf is not None and not (response.status == 401 and asks_for_card(response.challenges)):
            response = await send(first)
    resynchronised = answered = renewed = False
    if answer_naf is not None and choose_naf_challenge(response.challenges, realm) is not None:
        try:
            response, answered = await _with_key(response, realm, send, answer_naf)
            return LoginResult(response, answered and response.status < 400)
        except AgentError as error:
            if error.kind != "bsf":
                raise
            response = await send(first)
            if choose_challenge(response.challenges) is None:
                raise
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


async def _with_key[Answer: ServerAnswer](
    response: Answer,
    host: str,
    send: Callable[[str | None], Awaitable[Answer]],
    answer_naf: Callable[[str, bool], Awaitable[str]],
) -> tuple[Answer, bool]:
    """Answer with a bootstrapped key, once more with a new nonce, once more with a new key; the last answer."""
    answered = retried = renewed = False
    while response.status == 401:
        challenge = choose_naf_challenge(response.challenges, host)
        if challenge is None:
            break
        renew = answered and not challenge.stale
        if (renew and renewed) or (answered and challenge.stale and retried):
            raise LoginRefusedError("The operator did not accept the key of this SIM card.")
        renewed, retried = renewed or renew, retried or (answered and challenge.stale)
        response = await send(await answer_naf(str(challenge), renew))
        answered = True
    return response, answered


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
