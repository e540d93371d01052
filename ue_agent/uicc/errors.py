"""What can go wrong with a smart card, each with what the user can do about it."""

from __future__ import annotations


class UiccError(Exception):
    """Base of everything this package raises; the text is fit to be shown to the user."""


class NoDaemonError(UiccError):
    """The PC/SC daemon does not answer."""


class NoReaderError(UiccError):
    """There is no card reader, or not the configured one."""


class NoCardError(UiccError):
    """The reader is empty."""


class CardRemovedError(UiccError):
    """The card was pulled, or its reader unplugged, while it was in use."""


class CardUnresponsiveError(UiccError):
    """A card is there but does not talk: inserted the wrong way round, dirty, broken, or held by another program."""


class AtError(CardUnresponsiveError):
    """A modem's line is not what TS 27.007 says; ``clause`` names the rule."""

    def __init__(self, message: str, clause: str) -> None:
        super().__init__(f"{message} (TS 27.007 {clause})")
        self.clause = clause


class WrongCardError(UiccError):
    """The card has neither ISIM nor USIM, or is not the one whose identities were read."""


class CardDataError(UiccError):
    """A file of the card does not hold what its specification says."""


class PinRequiredError(UiccError):
    """The card wants a PIN and none, or a wrong one, is configured."""


class PinLastTryError(UiccError):
    """One try is left, which this agent never uses up."""


class PinBlockedError(UiccError):
    """No try is left: the card needs its PUK."""


class CardError(UiccError):
    """The card refused a command."""

    def __init__(self, sw: int, meaning: str, command: str) -> None:
        super().__init__(f"the card answered {command} with {sw:04X}: {meaning}")
        self.sw = sw
        """Status word."""
        self.meaning = meaning
        self.command = command
        """Name of the command, without its data."""
