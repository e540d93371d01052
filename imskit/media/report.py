"""What became of a call's media, as the event ``media-report`` has it: of the agent and of the gateway alike."""

from __future__ import annotations

from imskit.media.bridge import DirectionStats
from imskit.media.plane import LegStats


def media_report(
    web: LegStats, ims: LegStats, to_ims: DirectionStats | None, to_web: DirectionStats | None
) -> dict[str, object]:
    """Return the fields: what was done, not what was agreed.

    ``web_received``, ``web_sent``, ``ims_received``, ``ims_sent``: RTP packets.  For each way that was planned
    (``to_ims``, ``to_web``): ``…_mode``, ``…_codecs`` (``source > target``), ``…_steps`` (times that speech was decoded
    and encoded anew), ``…_transcoded`` (packets that were) and ``…_added_ms``.
    """
    fields: dict[str, object] = {
        "web_received": web.packets_received,
        "web_sent": web.packets_sent,
        "ims_received": ims.packets_received,
        "ims_sent": ims.packets_sent,
    }
    for name, way in (("to_ims", to_ims), ("to_web", to_web)):
        if way is not None:
            fields[f"{name}_mode"] = way.mode
            fields[f"{name}_codecs"] = f"{way.source_codec} > {way.target_codec}"
            fields[f"{name}_steps"] = int(way.transcoding.packets > 0)
            fields[f"{name}_transcoded"] = way.transcoding.packets
            fields[f"{name}_added_ms"] = round(way.added_mean_ms, 2)
    return fields
