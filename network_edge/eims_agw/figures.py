"""The figures of a call as NG's ``query`` names them."""

from __future__ import annotations

from imskit.media.plane import LegStats
from network_edge.eims_agw.call_media import CallMedia
from network_edge.eims_agw.engine.dialog import Dialog, Side
from network_edge.eims_agw.wire.bencode import Value
from network_edge.iq.gateway import CallFigures, Traffic


def call_figures(
    call_id: str, created: float, last_signal: float, sessions: list[tuple[Dialog, CallMedia, str]]
) -> CallFigures:
    """Collect the figures of ``sessions``, each with why its media were lost (empty: they were not)."""
    tags: dict[str, Value] = {}
    sources: dict[str, Value] = {}
    received: dict[str, Traffic] = {}
    total = Traffic()
    for dialog, media, lost in sessions:
        for side in Side:
            tag, other = dialog.tag(side), dialog.tag(side.other)
            if tag is None:
                continue
            stats = media.stats(side)
            traffic = _traffic(stats)
            received[tag] = traffic
            total = Traffic(
                total.packets + traffic.packets, total.octets + traffic.octets, total.errors + traffic.errors
            )
            entry: dict[str, Value] = {"tag": tag, "created": int(created), "medias": [_media(media, side, stats)]}
            if other is not None:
                entry["in dialogue with"] = other
            if side is Side.WEB and media.waiting_for:
                entry["waiting for"] = media.waiting_for
            if lost:
                entry["lost"] = lost
            tags[tag] = entry
            if stats.reception is not None:
                sources[str(stats.reception.ssrc)] = _source(media, side, stats)
    details: dict[str, Value] = {
        "created": int(created),
        "last signal": int(last_signal),
        "tags": tags,
        "SSRC": sources,
        "totals": {"RTP": _counts(total)},
    }
    return CallFigures(call_id, int(created), int(last_signal), received, total, details)


def _traffic(stats: LegStats) -> Traffic:
    return Traffic(stats.packets_received, stats.octets_received, sum(stats.dropped.values()))


def _counts(traffic: Traffic) -> dict[str, Value]:
    return {"packets": traffic.packets, "bytes": traffic.octets, "errors": traffic.errors}


def _media(media: CallMedia, side: Side, stats: LegStats) -> dict[str, Value]:
    plan = media.plan
    leg = None if plan is None else plan.web if side is Side.WEB else plan.ims
    stream: dict[str, Value] = {
        "local port": media.local_port(side),
        "flags": ["RTP", "ICE", "DTLS"] if side is Side.WEB else ["RTP", "SRTP"] if media.ims_secured else ["RTP"],
        "stats": _counts(_traffic(stats)),
        "stats_out": {"packets": stats.packets_sent, "bytes": stats.octets_sent, "errors": 0},
    }
    if stats.remote is not None:
        family = "IPv6" if ":" in stats.remote[0] else "IPv4"
        stream["endpoint"] = {"family": family, "address": stats.remote[0], "port": stats.remote[1]}
    if stats.dropped:
        stream["dropped"] = dict(stats.dropped)
    entry: dict[str, Value] = {
        "index": 1,
        "type": "audio",
        "protocol": "UDP/TLS/RTP/SAVPF" if side is Side.WEB else "RTP/SAVP" if media.ims_secured else "RTP/AVP",
        "streams": [stream],
    }
    if leg is not None and leg.codecs:
        entry["codec"] = leg.codec.encoding
    bridge = media.bridge_stats()
    if bridge is not None:
        way = bridge[0 if side is Side.WEB else 1]
        entry["mode"], entry["transcoded"] = way.mode, way.transcoding.packets
    return entry


def _source(media: CallMedia, side: Side, stats: LegStats) -> dict[str, Value]:
    reception = stats.reception
    assert reception is not None
    entry: dict[str, Value] = {"packets": reception.received, "lost": reception.lost}
    if reception.clock_rate:
        entry["jitter ms"] = round(1000 * reception.jitter / reception.clock_rate)
    _, _, round_trip = media.reported(side)
    if round_trip is not None:
        entry["round trip ms"] = round(1000 * round_trip)
    return entry
