"""The two profiles as data: what a browser's descriptions hold, and what an IMS terminal's hold.

WebRTC: RFC 9429 (JSEP), RFC 8834, RFC 7874.  IMS: TS 26.114 clauses 5.2 and 6.2, GSMA IR.92 clauses 3.2 and 4,
TS 34.229-1 annex A.  ``Profile.violations`` judges a description by these tables; the code that makes descriptions
reads the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from imskit.sdp.codec import codecs_of, is_amr, parameter_map
from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError

PTIME = 20
"""Milliseconds a packet (TS 26.114 section 7.4.2)."""

MAXPTIME = 240
"""The most that is accepted in one packet (TS 26.114 section 6.2.2.2)."""

FIRST_DYNAMIC_PAYLOAD_TYPE = 96


@dataclass(frozen=True, slots=True)
class Format:
    """A sound format that a side can offer.

    ``parameters`` go into the offer's fmtp; ``payload_type`` is its static number, None for a dynamic one;
    ``octets`` is the largest RTP payload of 20 ms at the rate it is used with here, for ``b=AS``.
    """

    encoding: str
    clock_rate: int
    channels: int
    parameters: str
    octets: int
    payload_type: int | None = None


# Speech bits of each mode in 20 ms (TS 26.101 and 26.201, table 1a).
_AMR_BITS = (95, 103, 118, 134, 148, 159, 204, 244)
_AMR_WB_BITS = (132, 177, 253, 285, 317, 365, 397, 461, 477)


def amr_octets(*, wideband: bool, octet_align: bool, mode_set: tuple[int, ...] | None = None) -> int:
    """The largest payload of one frame within ``mode_set`` (RFC 4867 sections 4.3 and 4.4)."""
    sizes = _AMR_WB_BITS if wideband else _AMR_BITS
    bits = sizes[-1 if mode_set is None else max(mode_set)]
    return 2 + -(-bits // 8) if octet_align else -(-(4 + 6 + bits) // 8)


# mode-change-capability=2 shall be in every offer that does not ask for mode-change-period=2 (RFC 4867 section
# 8.3.1); max-red=0: no redundancy is sent.
_AMR = "mode-change-capability=2;max-red=0"
AMR_WB = Format("AMR-WB", 16000, 1, _AMR, amr_octets(wideband=True, octet_align=False))
AMR_WB_OCTET_ALIGNED = Format("AMR-WB", 16000, 1, f"octet-align=1;{_AMR}", amr_octets(wideband=True, octet_align=True))
AMR = Format("AMR", 8000, 1, _AMR, amr_octets(wideband=False, octet_align=False))
AMR_OCTET_ALIGNED = Format("AMR", 8000, 1, f"octet-align=1;{_AMR}", amr_octets(wideband=False, octet_align=True))
PCMU = Format("PCMU", 8000, 1, "", 160, 0)
PCMA = Format("PCMA", 8000, 1, "", 160, 8)
G722 = Format("G722", 8000, 1, "", 160, 9)
OPUS = Format("opus", 48000, 2, "minptime=10;useinbandfec=1", 80)

IMS_FORMATS = (AMR_WB, AMR_WB_OCTET_ALIGNED, AMR, AMR_OCTET_ALIGNED)
"""What an IMS offer holds (IR.92 section 3.2.1), best first."""

IMS_FORMATS_WITH_G711 = (*IMS_FORMATS, PCMA, PCMU)
"""The same with the fixed network's formats, which browsers share: relayed when the peer has no AMR."""

WEB_FORMATS = (OPUS, G722, PCMA, PCMU)
"""What a browser is offered (RFC 7874 section 3 makes Opus and G.711 mandatory), best first."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules of one side."""

    name: str
    offered_protocol: str
    protocols: frozenset[str]
    """Transport protocols accepted in offers; an answer repeats the offer's."""
    formats: tuple[Format, ...]
    forbidden_attributes: frozenset[str]
    required_attributes: frozenset[str]
    """Attributes that every accepted sound line has, itself or through the session."""
    required_bandwidths: frozenset[str]
    forbidden_amr_parameters: frozenset[str]
    """AMR parameters that an offer must not hold."""

    def violations(self, description: SessionDescription, *, offer: bool = True) -> list[str]:
        """What in ``description`` breaks this profile, a sentence each; SdpError if it cannot be read."""
        found: list[str] = []
        for where, section in (("session", description), *enumerate(description.media)):
            for line in section.lines:
                name = line.value.partition(":")[0]
                if line.type == "a" and name in self.forbidden_attributes:
                    found.append(f"{where}: a={name}")
        for index, media in enumerate(description.media):
            if media.protocol not in self.protocols:
                found.append(f"{index}: protocol {media.protocol}")
                continue
            if media.port == 0 or media.media != "audio":
                continue
            found += [
                f"{index}: no a={name}"
                for name in sorted(self.required_attributes)
                if media.attribute(name) is None and description.attribute(name) is None
            ]
            found += [f"{index}: no b={name}" for name in sorted(self.required_bandwidths - media.bandwidths.keys())]
            codecs = codecs_of(media)
            rates = [codec.clock_rate for codec in codecs if codec.is_telephone_event]
            if len(rates) != len(set(rates)):
                found.append(f"{index}: two telephone-event formats of one clock rate")
            for codec in codecs:
                wrong = self.forbidden_amr_parameters & parameter_map(codec.parameters).keys()
                if offer and is_amr(codec) and wrong:
                    found.append(f"{index}: {codec.encoding} with {', '.join(sorted(wrong))}")
        return found

    def strip(self, description: SessionDescription) -> None:
        """Take away the forbidden attributes: for what a program that knows no profiles has written."""
        for section in (description, *description.media):
            section.remove_attributes(*self.forbidden_attributes)


IMS = Profile(
    name="IMS",
    offered_protocol="RTP/AVP",
    protocols=frozenset({"RTP/AVP", "RTP/AVPF"}),
    formats=IMS_FORMATS,
    forbidden_attributes=frozenset(
        {
            # multiplexing [R-MUX]
            "group",
            "mid",
            "bundle-only",
            "rtcp-mux",
            "rtcp-mux-only",
            # ICE and DTLS-SRTP end at the access side
            "ice-ufrag",
            "ice-pwd",
            "ice-options",
            "ice-lite",
            "ice-pacing",
            "ice-mismatch",
            "candidate",
            "remote-candidates",
            "end-of-candidates",
            "fingerprint",
            "setup",
            "tls-id",
            "connection",
            # the browser's own
            "msid",
            "msid-semantic",
            "ssrc",
            "ssrc-group",
            "rid",
            "simulcast",
            "extmap",
            "extmap-allow-mixed",
            "rtcp-fb",
            "rtcp-rsize",
        }
    ),
    required_attributes=frozenset({"ptime", "maxptime"}),
    required_bandwidths=frozenset({"AS", "RS", "RR"}),
    forbidden_amr_parameters=frozenset(
        {"mode-set", "mode-change-period", "mode-change-neighbor", "crc", "robust-sorting", "interleaving"}
    ),
)

WEBRTC = Profile(
    name="WebRTC",
    offered_protocol="UDP/TLS/RTP/SAVPF",
    # RFC 9429 section 5.1.2: all of these are accepted, whatever of them the transport really is.
    protocols=frozenset(
        {
            "UDP/TLS/RTP/SAVPF",
            "UDP/TLS/RTP/SAVP",
            "TCP/TLS/RTP/SAVPF",
            "TCP/DTLS/RTP/SAVPF",
            "TCP/DTLS/RTP/SAVP",
            "RTP/SAVPF",
            "RTP/SAVP",
        }
    ),
    formats=WEB_FORMATS,
    forbidden_attributes=frozenset({"curr", "des", "conf", "crypto", "tcap", "pcfg", "acfg"}),
    required_attributes=frozenset({"ice-ufrag", "ice-pwd", "fingerprint", "setup", "mid", "rtcp-mux"}),
    required_bandwidths=frozenset(),
    forbidden_amr_parameters=frozenset(),
)


def bandwidth(octets: int, *, ipv6: bool) -> int:
    """``b=AS`` in kbit/s for packets of ``octets`` every 20 ms, with RTP, UDP and IP headers (TS 26.114 annex K).

    RFC 8866 section 5.8: RTP counts with the headers of the layers below it.
    """
    return -(-(octets + 12 + 8 + (40 if ipv6 else 20)) * 8 // PTIME)


def rtcp_bandwidths(session: int) -> tuple[int, int]:
    """``b=RS`` and ``b=RR`` in bit/s for ``session`` kbit/s: 5 %, a quarter of it for senders (RFC 3556 section 2).

    RR is never 0: RTCP is needed on hold (TS 26.114 section 7.3.1, TS 34.229-1 annex A).
    """
    return session * 1000 // 80, max(1, session * 3000 // 80)


def check_media_count(offer: SessionDescription, answer: SessionDescription) -> None:
    """SdpError unless ``answer`` has a line for each of the offer's, of the same media (RFC 3264 section 6)."""
    if [media.media for media in offer.media] != [media.media for media in answer.media]:
        raise SdpError("the answer's media lines are not the offer's", "RFC 3264 section 6", status=488)
