"""From the codec flags of NG to the formats that a description offers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imskit.sdp.codec import codecs_of
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.profile import (
    AMR,
    AMR_OCTET_ALIGNED,
    AMR_WB,
    AMR_WB_OCTET_ALIGNED,
    G722,
    OPUS,
    PCMA,
    PCMU,
    Format,
)
from network_edge.iq.gateway import CodecFlags

KNOWN = (OPUS, AMR_WB, AMR_WB_OCTET_ALIGNED, AMR, AMR_OCTET_ALIGNED, G722, PCMA, PCMU)


def chosen(offer: SessionDescription, flags: CodecFlags, default: Sequence[Format]) -> tuple[Format, ...]:
    """The formats to offer on, best first.

    Without any codec flag ``default``, the profile of the side.  Else those of ``transcode`` in their order, then
    the offer's own that are neither masked nor stripped (``all``: every one that ``offer`` or ``except`` does not
    name).  SdpError (488) if nothing is left.
    """
    if flags == CodecFlags():
        return tuple(default)
    found = [item for name in flags.transcode for item in KNOWN if _names(item, name)]
    away = {name.lower() for name in (*flags.mask, *flags.strip)}
    kept = (*flags.offer, *flags.except_)
    for item in _offered(offer):
        masked = "all" in away or _any(item, away)
        if not masked or _any(item, kept):
            found.append(item)
    formats = tuple(dict.fromkeys(found))
    if not formats:
        raise SdpError("the codec flags leave no format", "NG protocol, codec", status=488, warning=305)
    return formats


def without(formats: Iterable[Format], flags: CodecFlags) -> tuple[Format, ...]:
    """``formats`` without the stripped ones, for the answer to the offerer: a masked one may be used there."""
    away = {name.lower() for name in flags.strip}
    return tuple(item for item in formats if "all" not in away and not _any(item, away))


def _offered(offer: SessionDescription) -> list[Format]:
    codecs = [codec for media in offer.media if media.media == "audio" and media.port for codec in codecs_of(media)]
    return [
        item
        for codec in codecs
        for item in KNOWN
        if (item.encoding.lower(), item.clock_rate) == (codec.encoding.lower(), codec.clock_rate)
    ]


def _any(item: Format, names: Iterable[str]) -> bool:
    return any(_names(item, name) for name in names)


def _names(item: Format, name: str) -> bool:
    """Whether ``name``, as NG writes codecs (``AMR-WB``, ``AMR-WB/16000``, ``opus/48000/2``), means ``item``."""
    encoding, _, rest = name.lower().partition("/")
    rate = rest.partition("/")[0]
    return encoding == item.encoding.lower() and rate in ("", str(item.clock_rate))
