"""The PIN of a card, by hand: verify, change, enable, disable, unblock (TS 102 221 clauses 9.5, 11.1.9 to 11.1.13).

Every operation asks for the tries left first, which costs none, and does not use up the last one unless told to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imskit.secrets import Secret
from ue_agent.uicc import files
from ue_agent.uicc.apdu import Answer, CardChannel, Command, meaning, query_pin
from ue_agent.uicc.errors import CardError, PinBlockedError, PinLastTryError, PinRequiredError

type Operation = Literal["verify", "change", "enable", "disable", "unblock"]

_VERIFIED, _BLOCKED, _DISABLED = 0x9000, 0x6983, 0x6984
_INS = {"verify": 0x20, "change": 0x24, "disable": 0x26, "enable": 0x28, "unblock": 0x2C}


@dataclass(frozen=True, slots=True)
class PinState:
    """A PIN as the card tells of it."""

    reference: int
    """Key reference: 01 for the PIN of the first application."""
    enabled: bool | None
    """``None`` if the card does not say."""
    verified: bool
    """Whether the card is open now: the PIN is disabled, or was given before."""
    tries: int | None
    """Tries left; ``None`` if the card does not say."""
    unblock_tries: int | None
    """Tries left for the PUK."""


def pin_state(channel: CardChannel, fcp: bytes) -> PinState:
    """Return the state of the PIN that guards the application just selected, whose FCP template is ``fcp``.

    Asks for the tries left, which costs none.
    """
    reference = files.decode_fcp(fcp).pin_reference
    answer = channel.send(query_pin(reference)).sw
    unblock = channel.send(Command("UNBLOCK PIN (tries left?)", _INS["unblock"], 0x00, reference)).sw
    return PinState(
        reference,
        False if answer == _DISABLED else files.pin_enabled(fcp, reference),
        answer in (_VERIFIED, _DISABLED) or answer >> 8 == 0x91,
        _tries(answer),
        _tries(unblock),
    )


def operate(
    channel: CardChannel,
    operation: Operation,
    state: PinState,
    code: Secret[str],
    new: Secret[str] | None = None,
    *,
    last_try: bool = False,
) -> None:
    """Carry out ``operation`` on the PIN of ``state`` in the application selected.

    ``code`` is the PIN (4 to 8 digits), for ``unblock`` the PUK (8 digits); ``new`` the new PIN of ``change`` and
    ``unblock``.  ``PinLastTryError`` with one try left unless ``last_try``; ``PinBlockedError``; ``PinRequiredError``
    if the code was wrong; ``CardError`` for other refusals; ``ValueError`` for codes that are none.
    """
    puk = operation == "unblock"
    what = "PUK" if puk else "PIN"
    _check_digits(code, 8 if puk else 4, what)
    if new is not None:
        _check_digits(new, 4, "new PIN")
    if (new is not None) != (operation in ("change", "unblock")):
        raise ValueError("change and unblock, and only they, take a new PIN")
    tries = state.unblock_tries if puk else state.tries
    if tries == 0:
        cure = "the card is of no use any more" if puk else "unblock it with its PUK: imsbridge card pin unblock"
        raise PinBlockedError(f"the {what} is blocked; {cure}")
    if tries == 1 and not last_try:
        raise PinLastTryError(f"one {what} try is left; --last-try uses it")
    if tries is None and not state.verified and not last_try:
        raise PinLastTryError(f"the card does not say how many {what} tries are left; --last-try risks it")
    data = b"".join(part.reveal().encode("ascii").ljust(8, b"\xff") for part in (code, new) if part is not None)
    command = Command(f"{operation.upper()} PIN", _INS[operation], 0x00, state.reference, data)
    _judge(channel.send(command), command, what)


def _judge(answer: Answer, command: Command, what: str) -> None:
    if answer.ok:
        return
    if answer.sw & 0xFFF0 == 0x63C0:
        raise PinRequiredError(f"the {what} is wrong; tries left: {answer.sw & 0x0F} ({answer.sw:04X})")
    if answer.sw == _BLOCKED:
        raise PinBlockedError(f"the {what} is blocked now ({answer.sw:04X})")
    raise CardError(answer.sw, meaning(answer.sw), command.name)


def _tries(sw: int) -> int | None:
    """Tries left by the answer to a question for them, ``None`` if it does not say."""
    return sw & 0x0F if sw & 0xFFF0 == 0x63C0 else 0 if sw == _BLOCKED else None


def _check_digits(code: Secret[str], least: int, what: str) -> None:
    text = code.reveal()
    if not (text.isascii() and text.isdecimal() and least <= len(text) <= 8):
        raise ValueError(f"a {what} has {'8' if least == 8 else '4 to 8'} digits")
