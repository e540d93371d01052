"""What the WWPF and the agent say to each other: types of both sides, and the messages between them.

One JSON object a line over a Unix socket.  The WWPF asks, the agent answers; requests may overlap:

    {"id": 1, "op": "hello", "secret": "…"}        ->  {"id": 1, "result": {"sessions": [["<hash>", 123.4]]}}
    {"id": 2, "op": "identity"}                    ->  {"id": 2, "result": {"impi": "…", "domain": "…"}}
    {"id": 3, "op": "answer", "challenge": "Digest …", "method": "GET", "uri": "/"}
                                                   ->  {"id": 3, "result": {"authorization": "…", "resync": false}}
                                                   ->  {"id": 3, "error": {"kind": "not-ready", "message": "…"}}
    {"id": 7, "op": "naf", "challenge": "Digest …", "method": "GET", "uri": "/", "host": "portal…", "renew": false}
                                                   ->  {"id": 7, "result": {"authorization": "…"}}
    {"id": 4, "op": "turn", "username": "…", "password": "…", "ttl": 3600}
    {"id": 5, "op": "sessions", "opened": [["<hash>", 123.4]], "closed": ["<hash>"]}
    {"id": 6, "op": "status", "state": "ready", "detail": "…"}

RES, CK, IK and bootstrapped keys never travel: the finished ``Authorization`` value does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from imskit.secrets import Identity, Secret

MAXIMUM_LINE = 64 * 1024
"""Octets of one message."""

type Kind = Literal["not-ready", "wrong-network", "card", "busy", "internal", "bsf", "phishing"]
KINDS: tuple[str, ...] = get_args(Kind.__value__)


class AgentError(Exception):
    """Why the agent has no answer; the text is fit for the user.

    ``kind``: ``not-ready`` (no card, PIN missing, agent still starting), ``wrong-network`` (the card does not
    accept the challenge: wrong MAC), ``card`` (the card failed), ``busy`` (too many log-ins), ``internal``, ``bsf`` (no
    key was to be had from the bootstrapping server), ``phishing`` (a server asks for another's key).
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ProtocolError(Exception):
    """The other side does not keep to the messages above."""


@dataclass(frozen=True, slots=True)
class LoginIdentity:
    """Who logs in."""

    impi: Identity
    """Private identity: the user name of the digest."""
    domain: str
    """Home network domain."""


@dataclass(frozen=True, slots=True)
class ChallengeAnswer:
    """The card's answer to a challenge, ready to be sent."""

    authorization: str
    """Value of the ``Authorization`` header."""
    resync: bool = False
    """It carries AUTS: the server will challenge again (RFC 3310 section 3.4)."""


class LoginHandler(Protocol):
    """The agent's side: the one who has the card.  Every method may raise ``AgentError``."""

    async def identity(self) -> LoginIdentity:
        """Return who the card belongs to."""

    async def answer_challenge(self, challenge: str, method: str, uri: str) -> ChallengeAnswer:
        """Answer one Digest AKA challenge (a ``WWW-Authenticate`` value, quality ``auth``) for a request."""

    async def answer_naf_challenge(self, challenge: str, method: str, uri: str, host: str, renew: bool) -> str:
        """Answer one challenge of the server ``host`` with a bootstrapped key; returns the ``Authorization`` value.

        ``renew``: the server did not take the last answer, so bootstrap anew first (TS 24.109 clause 5.2.5).
        """

    async def turn_credential(self, username: str, password: Secret[str], ttl: float) -> None:
        """The page was given this TURN credential, good for ``ttl`` seconds from now."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply, with its number."""

    number: int
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, line: bytes) -> Message:
        """Read one line; ProtocolError for anything but an object with a number."""
        if len(line) > MAXIMUM_LINE:
            raise ProtocolError(f"message of {len(line)} octets, more than {MAXIMUM_LINE}")
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            # The text is not shown: it may hold a secret.
            raise ProtocolError("message is not JSON") from error
        if not isinstance(fields, dict):
            raise ProtocolError("message is not an object")
        number = fields.pop("id", None)
        if not isinstance(number, int) or isinstance(number, bool):
            raise ProtocolError("message has no id")
        return cls(number, fields)

    def encode(self) -> bytes:
        """Return the line, its end included."""
        return json.dumps({"id": self.number, **self.fields}, separators=(",", ":")).encode() + b"\n"

    def text(self, name: str, limit: int = 16_384) -> str:
        """Return a field that must be a text."""
        value = self.fields.get(name)
        if not isinstance(value, str) or len(value) > limit:
            raise ProtocolError(f"{name} is no text, or too long")
        return value

    def number_of(self, name: str, highest: float) -> float:
        """Return a field that must be a number from 0 to ``highest``."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
            raise ProtocolError(f"{name} is no number from 0 to {highest:g}")
        return float(value)

    def sessions(self, name: str) -> list[tuple[str, float]]:
        """Return a field that must be a list of hashes with their ends."""
        value = self.fields.get(name, [])
        if not isinstance(value, list) or len(value) > 1024:
            raise ProtocolError(f"{name} is no list")
        for item in value:
            if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and len(item[0]) == 64):
                raise ProtocolError(f"{name} holds something else than hashes with ends")
            if isinstance(item[1], bool) or not isinstance(item[1], int | float):
                raise ProtocolError(f"{name} holds something else than hashes with ends")
        return [(digest, float(end)) for digest, end in value]

    def result(self) -> Mapping[str, Any]:
        """Return what a reply brings; AgentError if it is an error."""
        error = self.fields.get("error")
        if error is not None:
            kind = error.get("kind") if isinstance(error, dict) else None
            message = error.get("message") if isinstance(error, dict) else None
            if kind not in KINDS or not isinstance(message, str):
                raise ProtocolError("error without kind and message")
            raise AgentError(kind, message)
        result = self.fields.get("result")
        if not isinstance(result, dict):
            raise ProtocolError("reply without result")
        return result
