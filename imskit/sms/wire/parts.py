"""Long texts as several short messages, and back (TS 23.040 clause 9.2.3.24.1)."""

from __future__ import annotations

from collections import OrderedDict

from imskit.sms.wire import gsm7
from imskit.sms.wire.errors import SmsError
from imskit.sms.wire.tpdu import Part, Text

MAXIMUM_PARTS = 10
"""Pieces of one text that are sent."""
_WAITING = 32
"""Incomplete texts that are kept."""
_GSM7 = (160, 153)
"""Septets of a text in one message, and of each of several."""
_UCS2 = (70, 67)
"""The same in UTF-16 units."""


def split(text: str, reference: int) -> list[Text]:
    """Return a text as short messages; ``SmsError`` if it would need more than ``MAXIMUM_PARTS``."""
    codes = gsm7.encode(text)
    sizes = [len(pair) for pair in codes] if codes is not None else [1 + (ord(c) > 0xFFFF) for c in text]
    whole, piece = _GSM7 if codes is not None else _UCS2
    if sum(sizes) <= whole:
        return [Text(text)]
    pieces: list[str] = []
    start = used = 0
    for index, size in enumerate(sizes):
        if used + size > piece:  # an escape or surrogate pair stays whole
            pieces.append(text[start:index])
            start, used = index, 0
        used += size
    pieces.append(text[start:])
    if len(pieces) > MAXIMUM_PARTS:
        raise SmsError(f"a text of {len(text)} characters needs {len(pieces)} messages", "TS 23.040 clause 9.2.3.24.1")
    # One alphabet for all pieces: a receiver may show each as it comes.
    return [Text(part, Part(reference & 0xFF, len(pieces), n)) for n, part in enumerate(pieces, 1)]


class Assembler:
    """Puts the parts of long texts together, in whatever order they come."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[str, int, int], dict[int, str]] = OrderedDict()

    def take(self, sender: str, text: Text) -> str | None:
        """Return the whole text once all its parts are there."""
        part = text.part
        if part is None:
            return text.text
        key = (sender, part.reference, part.count)
        known = self._waiting.setdefault(key, {})
        known[part.number] = text.text
        if len(known) < part.count:
            while len(self._waiting) > _WAITING:
                self._waiting.popitem(last=False)
            return None
        del self._waiting[key]
        return "".join(known[number] for number in sorted(known))
