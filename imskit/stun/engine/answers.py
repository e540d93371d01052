"""Answers to requests: error responses, and the memory that answers retransmissions alike (RFC 8489 6.3.1)."""

from __future__ import annotations

from dataclasses import dataclass

from imskit.stun.engine.events import Flow
from imskit.stun.wire import attributes as a
from imskit.stun.wire.message import Message, MessageClass

REASONS = {
    400: "Bad Request",
    401: "Unauthenticated",
    403: "Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    486: "Allocation Quota Reached",
    508: "Insufficient Capacity",
}
"""Reason phrases of RFC 8489 14.8 and RFC 8656 19."""

MEMORY_SECONDS = 40.0
"""How long an answer is remembered (RFC 8489 6.3.1)."""
MEMORY_SIZE = 4096
"""Answers kept at most; the oldest go first."""


class Reject(Exception):
    """A request that gets an error response; the text is for the log."""

    def __init__(self, code: int, why: str, *attributes: a.Field) -> None:
        super().__init__(why)
        self.code = code
        self.attributes = attributes


def success(request: Message, *fields: a.Field) -> Message:
    """Build the success response to ``request``."""
    return Message(MessageClass.SUCCESS, request.method, request.transaction_id, fields)


def error(request: Message, code: int, *fields: a.Field) -> Message:
    """Build an error response to ``request``."""
    code_field = a.ERROR_CODE(a.ErrorCode(code, REASONS[code]))
    return Message(MessageClass.ERROR, request.method, request.transaction_id, (code_field, *fields))


@dataclass(slots=True)
class _Answer:
    request: bytes
    response: bytes
    until: float


class AnswerMemory:
    """What was answered to authenticated requests; a retransmission gets the same bytes and changes nothing."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Flow, bytes], _Answer] = {}

    def find(self, flow: Flow, request: Message, now: float) -> bytes | None:
        """Return the answer if exactly this request came on this 5-tuple before."""
        answer = self._answers.get((flow, request.transaction_id))
        if answer is None or answer.until <= now or answer.request != request.raw:
            return None
        return answer.response

    def keep(self, flow: Flow, request: Message, response: bytes, now: float) -> None:
        """Remember an answer."""
        while self._answers:  # in order of time, the oldest in front
            key, oldest = next(iter(self._answers.items()))
            if oldest.until > now and len(self._answers) < MEMORY_SIZE:
                break
            del self._answers[key]
        key = flow, request.transaction_id
        self._answers.pop(key, None)
        self._answers[key] = _Answer(request.raw, response, now + MEMORY_SECONDS)
