"""The profiles as data: bandwidths of TS 26.114, what each side must and must not say."""

from collections.abc import Callable

import pytest

from imskit.sdp.description import SessionDescription
from imskit.sdp.errors import SdpError
from imskit.sdp.profile import (
    AMR,
    AMR_OCTET_ALIGNED,
    AMR_WB,
    AMR_WB_OCTET_ALIGNED,
    IMS,
    PCMA,
    WEBRTC,
    amr_octets,
    bandwidth,
    check_media_count,
    rtcp_bandwidths,
)

type Sample = Callable[[str], SessionDescription]


def test_payload_sizes() -> None:
    """RFC 4867 sections 4.3 and 4.4: 23.85 and 12.2 kbit/s, one frame a packet."""
    assert [item.octets for item in (AMR_WB, AMR_WB_OCTET_ALIGNED, AMR, AMR_OCTET_ALIGNED)] == [61, 62, 32, 33]
    assert amr_octets(wideband=True, octet_align=False, mode_set=(0, 1, 2)) == 33


def test_bandwidths() -> None:
    """AS 41 for AMR-WB on IPv4 with RS 512 and RR 1537 is the field's offer; 26.114 has 37 for AMR on IPv6."""
    assert bandwidth(AMR_WB.octets, ipv6=False) == 41
    assert bandwidth(AMR_WB_OCTET_ALIGNED.octets, ipv6=False) == 41
    assert bandwidth(AMR_WB.octets, ipv6=True) == 49
    assert bandwidth(AMR.octets, ipv6=True) == 37
    assert bandwidth(PCMA.octets, ipv6=False) == 80
    assert rtcp_bandwidths(41) == (512, 1537)
    assert rtcp_bandwidths(0)[1] > 0


def test_field_and_conformance_offers_keep_the_profile(sample: Sample) -> None:
    for name in ("field_volte_offer", "conformance_mt_offer"):
        assert IMS.violations(sample(name)) == []


def test_browser_offers_keep_theirs(sample: Sample) -> None:
    for name in ("chromium_audio", "chromium_audio_trickle", "firefox_like_audio", "chromium_audio_max_bundle"):
        description = sample(name)
        description.media = description.media[:1]
        assert WEBRTC.violations(description) == []


def test_a_browser_offer_is_no_ims_offer(sample: Sample) -> None:
    found = IMS.violations(sample("chromium_audio"))
    assert "session: a=group" in found
    assert "0: a=ice-ufrag" in found and "0: a=rtcp-mux" in found and "0: a=fingerprint" in found
    assert "0: protocol UDP/TLS/RTP/SAVPF" in found


def test_an_ims_offer_is_no_browser_offer(sample: Sample) -> None:
    found = WEBRTC.violations(sample("field_volte_offer"))
    assert "0: a=curr" in found and "0: protocol RTP/AVP" in found


def test_what_an_offer_must_not_ask_of_amr(sample: Sample) -> None:
    """TS 34.229-1 annex A: mode-set and the like are not offered; an answer may have a mode-set."""
    text = sample("field_volte_offer").encode().replace(b"octet-align=1;", b"octet-align=1;mode-set=0,1,2;crc=1;", 1)
    description = SessionDescription.parse(text)
    assert IMS.violations(description) == ["0: AMR-WB with crc, mode-set"]
    assert IMS.violations(description, offer=False) == []


def test_one_telephone_event_for_a_clock(sample: Sample) -> None:
    text = sample("field_volte_offer").encode().replace(b"telephone-event/16000", b"telephone-event/8000")
    assert IMS.violations(SessionDescription.parse(text)) == ["0: two telephone-event formats of one clock rate"]


def test_missing_lines_are_named(sample: Sample) -> None:
    text = sample("field_volte_offer").encode().replace(b"b=RR:1537\r\n", b"").replace(b"a=ptime:20\r\n", b"")
    assert IMS.violations(SessionDescription.parse(text)) == ["0: no a=ptime", "0: no b=RR"]


def test_media_count(sample: Sample) -> None:
    offer = sample("chromium_audio_video_data")
    check_media_count(offer, offer)
    with pytest.raises(SdpError) as caught:
        check_media_count(offer, sample("chromium_audio"))
    assert caught.value.status == 488
