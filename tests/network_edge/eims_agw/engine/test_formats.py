"""Codec flags of NG [A-AGW]."""

import pytest

from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.profile import AMR, AMR_OCTET_ALIGNED, AMR_WB, AMR_WB_OCTET_ALIGNED, G722, OPUS, PCMA, PCMU
from network_edge.eims_agw.engine.formats import chosen, without
from network_edge.iq.gateway import CodecFlags

OFFER = SessionDescription.parse(
    "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    "m=audio 4000 UDP/TLS/RTP/SAVPF 111 9 8 63\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:63 red/48000/2\r\n"
)


@pytest.mark.parametrize(
    "flags,expected",
    [
        (CodecFlags(), (AMR,)),
        (CodecFlags(mask=("opus",)), (G722, PCMA)),
        (CodecFlags(strip=("OPUS/48000/2", "g722")), (PCMA,)),
        (CodecFlags(transcode=("AMR-WB",)), (AMR_WB, AMR_WB_OCTET_ALIGNED, OPUS, G722, PCMA)),
        (CodecFlags(transcode=("PCMU", "AMR/8000"), mask=("all",)), (PCMU, AMR, AMR_OCTET_ALIGNED)),
        (CodecFlags(mask=("all",), offer=("PCMA",)), (PCMA,)),
        (CodecFlags(strip=("all",), except_=("G722",)), (G722,)),
        (CodecFlags(transcode=("PCMA", "nonsense")), (PCMA, OPUS, G722)),
    ],
)
def test_what_is_offered_on(flags, expected):
    assert chosen(OFFER, flags, (AMR,)) == expected


def test_nothing_left():
    with pytest.raises(SdpError) as refusal:
        chosen(OFFER, CodecFlags(strip=("all",)), (AMR,))
    assert refusal.value.status == 488


def test_a_masked_format_is_still_for_the_offerer_and_a_stripped_one_not():
    assert without((OPUS, PCMA), CodecFlags(mask=("opus",))) == (OPUS, PCMA)
    assert without((OPUS, PCMA), CodecFlags(strip=("opus",))) == (PCMA,)
