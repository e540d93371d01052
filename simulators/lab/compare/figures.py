"""Every figure that a comparison gives, with its unit and its definition.

The table, the report and ``docs/compare.md`` take their words from here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure of a call."""

    key: str
    title: str
    unit: str
    group: str
    definition: str
    digits: int = 0
    higher_is_better: bool = False


_SETUP, _MEDIA, _QUALITY, _COST = "Access and set-up", "Media path", "Speech", "Cost"

FIGURES: tuple[Figure, ...] = (
    Figure(
        "page_load_ms",
        "page load",
        "ms",
        _SETUP,
        "From the start of the navigation to the page's load event, both by the browser's own clock (Navigation "
        "Timing). Each call has a new tab without cookies; the HTTP cache is the browser's own and stays warm after "
        "the first call. On the UE path the card's AKA run is part of it, because it happens before the page is given.",
    ),
    Figure(
        "log_in_ms",
        "log-in",
        "ms",
        _SETUP,
        "From the start of the navigation until the page knows that its user is logged in (its mark page:session); the "
        "time that a form waits for its user is left out.",
    ),
    Figure(
        "registration_ms",
        "registration",
        "ms",
        _SETUP,
        "From the log-in (page:session) until the 200 to the page's REGISTER (page:registered): opening of the "
        "WebSocket, token and REGISTER. On the UE path the agent is registered with IMS already.",
    ),
    Figure(
        "post_dial_delay_ms",
        "post-dial delay",
        "ms",
        _SETUP,
        "From the click on Call until the page has the first 180 (Ringing).",
    ),
    Figure(
        "time_to_answer_ms",
        "time to answer",
        "ms",
        _SETUP,
        "From the click on Call until the page has the 200 to its INVITE. The lab's phone rings for the time that the "
        "conditions name; it is part of the figure.",
    ),
    Figure(
        "ice_ms",
        "ICE connected",
        "ms",
        _MEDIA,
        "From the click on Call until the browser's iceConnectionState is connected or completed.",
    ),
    Figure(
        "dtls_ms",
        "DTLS connected",
        "ms",
        _MEDIA,
        "From the click on Call until the browser's connectionState is connected: ICE and the DTLS handshake are done.",
    ),
    Figure(
        "first_to_phone_ms",
        "first packet to the phone",
        "ms",
        _MEDIA,
        "From the click on Call until the called phone has the first RTP packet (the phone's own record).",
    ),
    Figure(
        "first_to_browser_ms",
        "first packet to the browser",
        "ms",
        _MEDIA,
        "From the click on Call until the browser unmutes the remote track, which it does on the first RTP packet.",
    ),
    Figure(
        "delay_to_phone_ms",
        "mouth to ear, to the phone",
        "ms",
        _MEDIA,
        "From a sound's leaving the browser's microphone track until the phone's loudspeaker has it, jitter buffer "
        "included: the known speech is found in what the microphone track carried and in the phone's recording, each "
        "with the time of its first sample. Both are taken by software: sound cards' buffers are not part of it.",
    ),
    Figure(
        "delay_to_browser_ms",
        "mouth to ear, to the browser",
        "ms",
        _MEDIA,
        "From a sound's leaving the phone's microphone until the page's audio graph has it, jitter buffer included; "
        "the known speech is found in what the page plays.",
    ),
    Figure(
        "jitter_to_phone_ms",
        "jitter, to the phone",
        "ms",
        _MEDIA,
        "RFC 3550 6.4.1 interarrival jitter at the phone at the end of the call.",
        digits=1,
    ),
    Figure(
        "jitter_to_browser_ms",
        "jitter, to the browser",
        "ms",
        _MEDIA,
        "RFC 3550 6.4.1 interarrival jitter at the browser at the end of the call (inbound-rtp of its statistics).",
        digits=1,
    ),
    Figure(
        "loss_to_phone_percent",
        "loss, to the phone",
        "%",
        _MEDIA,
        "RTP packets lost between browser and phone, over both legs: 1 - (1 - a)(1 - b), a from the gateway's RTCP "
        "report to the browser (remote-inbound-rtp), b from the phone's reception.",
        digits=2,
    ),
    Figure(
        "loss_to_browser_percent",
        "loss, to the browser",
        "%",
        _MEDIA,
        "RTP packets lost between phone and browser, over both legs: 1 - (1 - a)(1 - b), a from the gateway's RTCP "
        "report to the phone, b from the browser's reception (inbound-rtp).",
        digits=2,
    ),
    Figure(
        "pesq_to_phone",
        "PESQ-WB, to the phone",
        "MOS-LQO",
        _QUALITY,
        "ITU-T P.862.2 (wideband, 16 kHz) of the phone's recording against the speech that the browser's microphone "
        "was given: one round of 7 s, aligned. 1.0 to 4.64; synthetic speech, so only the difference between paths "
        "counts.",
        digits=2,
        higher_is_better=True,
    ),
    Figure(
        "pesq_to_browser",
        "PESQ-WB, to the browser",
        "MOS-LQO",
        _QUALITY,
        "The same of what the page plays against the speech that the phone was given.",
        digits=2,
        higher_is_better=True,
    ),
    Figure(
        "transcoding_to_phone",
        "transcoding steps, to the phone",
        "",
        _QUALITY,
        "Decoding and encoding anew between the codec that the browser sends and the one that the phone receives: 0 if "
        "they are the same, else 1 (one media gateway is in each path).",
    ),
    Figure(
        "transcoding_to_browser",
        "transcoding steps, to the browser",
        "",
        _QUALITY,
        "The same in the other direction.",
    ),
)
"""In the order in which they are shown."""

BY_KEY = {figure.key: figure for figure in FIGURES}
GROUPS = tuple(dict.fromkeys(figure.group for figure in FIGURES))

POINTS = {
    "W1": "Page and log-in between browser and WWSF over HTTPS. Messages: requests of the page, as the browser counts "
    "them; bytes: what the browser received for them, headers included (transferSize). Encrypted "
    "on the wire: both are the browser's own count.",
    "W2": "SIP over WebSocket between page and gateway. Messages: WebSocket text frames both ways, from the opening of "
    "the page to the call's end; bytes: their payload. Encrypted on the wire: both are the browser's own count.",
    "W3": "Media, ICE, DTLS between browser and gateway. IP packets and their bytes on the wire, TURN's channels "
    "included.",
    "Gm": "SIP between the agent and the P-CSCF. Messages: SIP messages both ways as they are inside IPsec; packets "
    "and bytes: of IP on the access (ESP and what is in clear).",
    "Mw": "SIP between the edge's eP-CSCF and the core, both ways. Packets and bytes are of IP.",
    "Mb": "RTP and RTCP between gateway and phone, both ways; packets and bytes are of IP.",
}
"""The reference points and how they are counted."""
ELEMENT_CPU = "User and system time of the element's processes while both talk, over that time, in % of one core."
ELEMENT_MEMORY = "Largest sum of the proportional set sizes of the element's processes seen while talking, MB (10^6)."
