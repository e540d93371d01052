"""Payload formats as a description lists them: rtpmap, fmtp and static types together; AMR's parameters.

RFC 8866 sections 6.6 and 6.15, RFC 3551 section 6, RFC 4867 section 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from imskit.sdp.attributes import Fmtp, RtpMap
from imskit.sdp.description import MediaDescription
from imskit.sdp.errors import SdpError

TELEPHONE_EVENT = "telephone-event"

# RFC 3551 tables 4 and 5: what a payload type means without an rtpmap.
_STATIC: dict[int, tuple[str, int, int]] = {
    0: ("PCMU", 8000, 1),
    3: ("GSM", 8000, 1),
    4: ("G723", 8000, 1),
    8: ("PCMA", 8000, 1),
    9: ("G722", 8000, 1),
    10: ("L16", 44100, 2),
    11: ("L16", 44100, 1),
    13: ("CN", 8000, 1),
    15: ("G728", 8000, 1),
    18: ("G729", 8000, 1),
    31: ("H261", 90000, 1),
    34: ("H263", 90000, 1),
}


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload format of a media line.  ``parameters`` is its fmtp text, ``""`` without one."""

    payload_type: int
    encoding: str
    clock_rate: int
    channels: int = 1
    parameters: str = ""
    channels_stated: bool = field(default=False, compare=False)

    def is_same_format(self, other: Codec) -> bool:
        """Whether encoding, clock rate and channels agree; parameters are judged apart."""
        return (self.encoding.lower(), self.clock_rate, self.channels) == (
            other.encoding.lower(),
            other.clock_rate,
            other.channels,
        )

    @property
    def is_telephone_event(self) -> bool:
        """Whether this carries DTMF (RFC 4733) and no sound."""
        return self.encoding.lower() == TELEPHONE_EVENT

    def write(self, media: MediaDescription) -> None:
        """Append this format to ``media``: its number, rtpmap and fmtp."""
        media.formats.append(str(self.payload_type))
        rtp_map = RtpMap(self.payload_type, self.encoding, self.clock_rate, self.channels, self.channels_stated)
        media.add_attribute("rtpmap", str(rtp_map))
        if self.parameters:
            media.add_attribute("fmtp", f"{self.payload_type} {self.parameters}")


def codecs_of(media: MediaDescription) -> list[Codec]:
    """The formats of an RTP media line in its order; a number that nothing explains is left out.

    SdpError if a format is no payload type, or an rtpmap or fmtp is malformed.
    """
    maps: dict[int, RtpMap] = {}
    for rtp_map in media.typed("rtpmap", RtpMap.parse):
        maps.setdefault(rtp_map.payload_type, rtp_map)
    parameters: dict[str, str] = {}
    for fmtp in media.typed("fmtp", Fmtp.parse):
        known = parameters.get(fmtp.format)
        parameters[fmtp.format] = fmtp.parameters if known is None else f"{known};{fmtp.parameters}"
    codecs: list[Codec] = []
    seen: set[str] = set()
    for name in media.formats:
        if not (name.isascii() and name.isdigit() and len(name) <= 3 and int(name) <= 127):
            raise SdpError("a format that is no payload type", "RFC 8866 section 5.14", line=media.line.number)
        if name in seen:
            continue
        seen.add(name)
        number = int(name)
        text = parameters.get(name, "")
        if number in maps:
            found = maps[number]
            codecs.append(Codec(number, found.encoding, found.clock_rate, found.channels, text, found.channels_stated))
        elif number in _STATIC:
            codecs.append(Codec(number, *_STATIC[number], text))
    return codecs


def parameter_map(parameters: str) -> dict[str, str]:
    """The ``name=value`` pairs of an fmtp text, names in lower case; of repeated names the first counts."""
    found: dict[str, str] = {}
    for part in parameters.split(";"):
        name, _, value = part.strip().partition("=")
        if name:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def telephone_events(parameters: str) -> frozenset[int]:
    """The events that an fmtp names, 0-15 without one (RFC 4733 section 2.4.1); SdpError if malformed."""
    text = parameters.strip()
    if not text:
        return frozenset(range(16))
    text = text.removeprefix("events=").strip('"')
    events: set[int] = set()
    if text.count(",") > 255:
        raise SdpError("more than 256 events", "RFC 4733 section 2.4.1")
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low = _small(first, 255, "event")
        events.update(range(low, (_small(last, 255, "event") if dash else low) + 1))
    return frozenset(events)


@dataclass(frozen=True, slots=True)
class AmrParameters:
    """The fmtp parameters of AMR and AMR-WB (RFC 4867 section 8.1, 8.2); defaults are those of the text.

    ``mode_set`` None allows all modes; ``mode_change_period`` 2 asks the peer to change modes only every other
    frame; ``max_red`` is milliseconds of redundancy, None without limit.
    """

    octet_align: bool = False
    mode_set: tuple[int, ...] | None = None
    mode_change_period: int = 1
    mode_change_capability: int = 1
    mode_change_neighbor: bool = False
    crc: bool = False
    robust_sorting: bool = False
    interleaving: int | None = None
    max_red: int | None = None

    @classmethod
    def parse(cls, parameters: str, *, wideband: bool) -> AmrParameters:
        """Read an fmtp text; SdpError for a value outside the permissible ones.  Unknown names are ignored."""
        values = parameter_map(parameters)
        modes: tuple[int, ...] | None = None
        if "mode-set" in values:
            top = 8 if wideband else 7
            listed = {_small(mode, top, "mode-set") for mode in values["mode-set"].strip('"').split(",")}
            modes = tuple(sorted(listed))
        interleaving = values.get("interleaving")
        max_red = values.get("max-red")
        return cls(
            octet_align=_flag(values, "octet-align"),
            mode_set=modes,
            mode_change_period=_one_or_two(values, "mode-change-period"),
            mode_change_capability=_one_or_two(values, "mode-change-capability"),
            mode_change_neighbor=_flag(values, "mode-change-neighbor"),
            crc=_flag(values, "crc"),
            robust_sorting=_flag(values, "robust-sorting"),
            interleaving=None if interleaving is None else _small(interleaving, 65535, "interleaving"),
            max_red=None if max_red is None else _small(max_red, 65535, "max-red"),
        )

    @property
    def is_plain(self) -> bool:
        """Whether no CRC, robust sorting or interleaving is asked for: what this project can do."""
        return not self.crc and not self.robust_sorting and self.interleaving is None


def is_amr(codec: Codec) -> bool:
    """Whether this is AMR or AMR-WB at the clock rate that it must have."""
    return (codec.encoding.lower(), codec.clock_rate) in (("amr", 8000), ("amr-wb", 16000))


def amr_parameters(codec: Codec) -> AmrParameters:
    """The parameters of an AMR or AMR-WB format; SdpError if one is not permissible."""
    return AmrParameters.parse(codec.parameters, wideband=codec.encoding.lower() == "amr-wb")


def clock_rates(codecs: Iterable[Codec]) -> list[int]:
    """The clock rates of the sound formats among ``codecs``, each once, in order."""
    return list(dict.fromkeys(codec.clock_rate for codec in codecs if not codec.is_telephone_event))


def _small(text: str, top: int, name: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= top):
        raise SdpError(f"{name} with a value outside 0-{top}", "RFC 4733 section 2.4" if name == "event" else _AMR)
    return int(text)


def _flag(values: dict[str, str], name: str) -> bool:
    if values.get(name, "0") not in ("0", "1"):
        raise SdpError(f"{name} that is neither 0 nor 1", _AMR)
    return values.get(name) == "1"


def _one_or_two(values: dict[str, str], name: str) -> int:
    if values.get(name, "1") not in ("1", "2"):
        raise SdpError(f"{name} that is neither 1 nor 2", _AMR)
    return int(values.get(name, "1"))


_AMR = "RFC 4867 section 8.1"
