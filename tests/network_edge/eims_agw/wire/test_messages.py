"""NG messages [A-IQ]: what Kamailio and rtpengine's own tools send, our own requests there and back, noise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imskit.sdp.attributes import Candidate
from imskit.sdp.description import SessionDescription
from network_edge.eims_agw.wire import messages
from network_edge.eims_agw.wire.errors import NgError
from network_edge.eims_agw.wire.messages import ListRequest, Ping
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_IMS_SDES,
    TOWARDS_WEB,
    AnswerRequest,
    CandidatesRequest,
    DeleteRequest,
    Dtls,
    Ice,
    OfferRequest,
    QueryRequest,
    RtcpMux,
    Transport,
)

SDP = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"

CANDIDATE = Candidate.parse("1 1 udp 2130706431 192.0.2.9 4000 typ host")

REQUESTS = [
    Ping(),
    ListRequest(5),
    OfferRequest("call", "a", SessionDescription.parse(SDP), TOWARDS_IMS),
    OfferRequest("call", "a", SessionDescription.parse(SDP), TOWARDS_WEB, "b", "z9hG4bK1"),
    AnswerRequest("call", "a", "b", SessionDescription.parse(SDP), TOWARDS_WEB),
    DeleteRequest("call", "a", "b", None, 0),
    DeleteRequest("call"),
    QueryRequest("call", "a"),
    OfferRequest("call", "a", SessionDescription.parse(SDP), TOWARDS_IMS_SDES),
    CandidatesRequest("call", "a", "ufrag", "x" * 24),
    CandidatesRequest("call", "a", "ufrag", "x" * 24, (CANDIDATE, CANDIDATE), ended=True),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda item: type(item).__name__)
def test_there_and_back(request_):
    cookie, body = messages.split(messages.join("1_2", messages.request_message(request_)))
    parsed = messages.parse_request(messages.dictionary(body))
    assert cookie == "1_2" and parsed.ignored == ()
    if isinstance(request_, OfferRequest | AnswerRequest):
        assert str(parsed.request.sdp) == str(request_.sdp)
        assert parsed.request.flags == request_.flags and parsed.request.call_id == request_.call_id
        assert parsed.request.to_tag == request_.to_tag and parsed.request.via_branch == request_.via_branch
    else:
        assert parsed.request == request_


def test_an_offer_as_kamailio_writes_it():
    """The dictionary that Kamailio 5.6's rtpengine module sends for
    ``rtpengine_offer("replace-origin ICE=remove RTP/AVP rtcp-mux-demux codec-mask-opus transcode-AMR-WB DTLS=off")``.
    """
    body = (
        b"d3:ICE6:remove4:SDESl3:offe4:DTLS3:off5:flagsl13:trust-address15:codec-mask-opuse"
        b"5:codecd9:transcodel6:AMR-WBee7:replacel6:origine18:transport-protocol7:RTP/AVP"
        b"8:rtcp-muxl5:demuxe7:call-id4:call13:received-froml3:IP49:127.0.0.1e8:from-tag3:abc"
        b"7:command5:offer7:unknown2:us3:sdp%d:%se" % (len(SDP), SDP.encode())
    )
    parsed = messages.parse_request(messages.dictionary(body))
    assert isinstance(parsed.request, OfferRequest)
    flags = parsed.request.flags
    assert (flags.ice, flags.transport, flags.dtls) == (Ice.REMOVE, Transport.AVP, Dtls.OFF)
    assert flags.rtcp_mux == (RtcpMux.DEMUX,) and flags.sdes == ("off",)
    assert flags.codec.mask == ("opus",) and flags.codec.transcode == ("AMR-WB",)
    assert flags.flags == ("trust-address",)
    assert parsed.ignored == ("unknown",)


def test_keys_with_spaces():
    """rtpengine's own client spells them so."""
    message = {"command": "offer", "call-id": "c", "from-tag": "a", "sdp": SDP, "transport protocol": "RTP/AVP",
               "rtcp mux": ["demux"]}  # fmt: skip
    flags = messages.parse_request(message).request.flags
    assert flags.transport is Transport.AVP and flags.rtcp_mux == (RtcpMux.DEMUX,)


def test_values_that_mean_nothing_here_are_handed_up():
    message = {"command": "offer", "call-id": "c", "from-tag": "a", "sdp": SDP, "ICE": "maybe", "rtcp-mux": ["what"],
               "transport-protocol": "RTP/XYZ", "TOS": 999, "codec": {"boil": ["opus"]}}  # fmt: skip
    parsed = messages.parse_request(message)
    assert set(parsed.ignored) == {
        "ICE=maybe", "rtcp-mux=what", "transport-protocol=RTP/XYZ", "TOS=999", "codec boil"
    }  # fmt: skip


@pytest.mark.parametrize(
    "message,where",
    [
        ({}, "command"),
        ({"command": "dance"}, "command"),
        ({"command": 1}, "command"),
        ({"command": "offer"}, "call-id"),
        ({"command": "offer", "call-id": "c"}, "from-tag"),
        ({"command": "offer", "call-id": "c" * 2000}, "call-id"),
        ({"command": "offer", "call-id": "c", "from-tag": "a"}, "sdp"),
        ({"command": "offer", "call-id": "c", "from-tag": "a", "sdp": "x"}, "sdp"),
        ({"command": "answer", "call-id": "c", "from-tag": "a", "sdp": SDP}, "to-tag"),
        ({"command": "delete", "call-id": ["c"]}, "call-id"),
    ],
)
def test_what_is_refused(message, where):
    with pytest.raises(NgError) as refusal:
        messages.parse_request(message)
    assert refusal.value.where == where


@pytest.mark.parametrize("data", [b"", b"x", b" d", b"\x00\x01 de", b"c" * 300 + b" de"])
def test_no_cookie(data):
    with pytest.raises(NgError):
        messages.split(data)


@settings(deadline=None)
@given(st.sampled_from(REQUESTS), st.binary(max_size=30), st.integers(0, 400), st.integers(0, 30))
def test_noise_raises_nothing_else(request_, noise, at, gone):
    data = messages.join("1_2", messages.request_message(request_))
    for broken in (data[:at] + noise + data[at + gone :], data[:at]):
        try:
            _, body = messages.split(broken)
            messages.parse_request(messages.dictionary(body))
        except NgError:
            continue


json_like = st.recursive(
    st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.sampled_from(["offer", "answer"]),
    st.dictionaries(
        st.sampled_from(["ICE", "DTLS", "SDES", "codec", "flags", "rtcp-mux", "TOS", "replace", "direction", "label"]),
        json_like,
    ),
)
def test_flags_of_any_shape_are_tolerated(command, flags):
    names = {"command": command, "call-id": "c", "from-tag": "a", "to-tag": "b", "sdp": SDP}
    assert isinstance(messages.parse_request(flags | names).request, OfferRequest | AnswerRequest)
