"""Ranges of public identities: one wildcarded IMPU in the home network, many users here (TS 33.203 annex X.4).

A wildcarded IMPU marks its variable part with an extended regular expression between exclamation marks
(TS 23.003 clause 13.4A), as in ``sip:guest!.*!@ims.example``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from imskit.config.model import setting
from imskit.secrets import Identity
from network_edge.wwsf.identities.model import ImsIdentities, identities

_WILDCARD = re.compile(r"(?P<head>sips?:[^!\s@]{0,100})!(?P<pattern>[^!]{1,60})!(?P<tail>[^!\s]{0,200})\Z")
_SIMPLE = re.compile(r"\.[*+]|\[0-9\](?:[*+]|\{\d{1,2}(?:,\d{1,2})?\})")


@dataclass(frozen=True)
class RangeConfig:
    """A range of public identities that users without identities of their own get one of while they are logged in."""

    name: str = setting("name of the range; accounts and providers refer to it")
    wildcard: str = setting("the wildcarded public identity, such as sip:guest!.*!@ims.example (TS 23.003 13.4A)")
    impi: str = setting("private identity; {} in it, if any, becomes the variable part of the public one")
    first: int = setting("first number of the range")
    last: int = setting("last number of the range")
    digits: int = setting("how many digits the variable part has, with leading zeros", 4)
    _head: str = field(init=False, repr=False, default="")
    _tail: str = field(init=False, repr=False, default="")

    def __post_init__(self) -> None:
        match = _WILDCARD.match(self.wildcard)
        if match is None:
            raise ValueError("wildcard must be a SIP URI with one !regular expression! (TS 23.003 13.4A)")
        if not _SIMPLE.fullmatch(match["pattern"]):
            raise ValueError("wildcard: the expression must be .*, .+, [0-9]*, [0-9]+ or [0-9]{n}")
        if not 1 <= self.digits <= 15 or not 0 <= self.first <= self.last < 10**self.digits:
            raise ValueError("first and last must be an ascending range of numbers with so many digits")
        if not re.fullmatch(match["pattern"], self._part(self.first)):
            raise ValueError("wildcard: the expression does not match the numbers of the range")
        object.__setattr__(self, "_head", match["head"])
        object.__setattr__(self, "_tail", match["tail"])
        self.identities(self.first)

    @property
    def size(self) -> int:
        """How many identities there are."""
        return self.last - self.first + 1

    def identities(self, number: int) -> ImsIdentities:
        """Return the identities of a number of the range."""
        if not self.first <= number <= self.last:
            raise ValueError(f"{number} is outside the range {self.name}")
        part = self._part(number)
        return identities(self.impi.replace("{}", part), [f"{self._head}{part}{self._tail}"])

    def covers(self, impu: Identity) -> bool:
        """Whether a public identity is one of the range."""
        text = str.__str__(impu)
        if not (text.startswith(self._head) and text.endswith(self._tail)):
            return False
        part = text[len(self._head) : len(text) - len(self._tail)]
        return part.isascii() and part.isdigit() and len(part) == self.digits and self.first <= int(part) <= self.last

    def _part(self, number: int) -> str:
        return f"{number:0{self.digits}d}"
