"""Candidates by INFO (RFC 8840), towards the browser only [R-ICE]."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imskit.sdp.errors import SdpError
from imskit.sip.engine.proxy_events import Respond
from network_edge.ep_cscf.engine.effects import Side
from network_edge.ep_cscf.engine.trickle import MediaCandidates, read_fragment

# RFC 8840 section 4.3, figure 6, with the credentials at media level as Chromium has them.
FRAGMENT = (
    b"a=group:BUNDLE 0\r\n"
    b"m=audio 9 RTP/AVP 0\r\n"
    b"a=mid:0\r\n"
    b"a=ice-ufrag:humq\r\n"
    b"a=ice-pwd:4y9DljdV2RkXI4bpX6nF1rDN\r\n"
    b"a=candidate:3240673007 1 udp 2122194687 192.0.2.2 44275 typ host generation 0\r\n"
    b"a=candidate:172916495 1 udp 2122265343 fd00::2 37133 typ host generation 0\r\n"
    b"a=candidate:172916495 1 udp 2122265343 fd00::2 37133 typ host generation 0\r\n"
    b"a=end-of-candidates\r\n"
)
HEADERS = (("Info-Package", "trickle-ice"), ("Content-Disposition", "Info-Package"))
KIND = "application/trickle-ice-sdpfrag"


def _info(bench: Any, party: Any, body: bytes = FRAGMENT, kind: str = KIND, to_tag: str | None = None) -> Any:
    to_tag = bench.other(party).tag if to_tag is None else to_tag
    request = bench.message("INFO", party, body, to_tag=to_tag, headers=HEADERS, kind=kind)
    _, result = bench.hand(request, party.side)
    assert isinstance(result, Respond)
    return result.response


def test_candidates_go_to_the_gateway_and_not_to_ims(bench: Any) -> None:
    bench.establish(bench.web)
    assert _info(bench, bench.web).status == 200
    (told,) = bench.take()
    assert isinstance(told, MediaCandidates)
    request = told.request
    assert request.call_id == bench.gateway.asked[0].request.call_id
    assert (request.from_tag, request.ufrag, request.pwd) == ("w1", "humq", "4y9DljdV2RkXI4bpX6nF1rDN")
    assert [candidate.address for candidate in request.candidates] == ["192.0.2.2", "fd00::2"]
    assert request.ended
    assert "4y9DljdV2RkXI4bpX6nF1rDN" not in repr(request)


def test_in_an_early_dialog(bench: Any) -> None:
    key, _ = bench.invite(bench.web)
    bench.reply(key, 180, tag="i1")
    assert _info(bench, bench.web).status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [(b"m=audio", KIND, 400), (FRAGMENT, "application/sdp", 415), (b"v=0\r\n", KIND, 400)],
)
def test_refused(bench: Any, body: bytes, kind: str, status: int) -> None:
    bench.establish(bench.web)
    assert _info(bench, bench.web, body, kind).status == status
    assert bench.take() == []


def test_unknown_dialog(bench: Any) -> None:
    assert _info(bench, bench.web, to_tag="nobody").status == 481


def test_ims_does_not_trickle(bench: Any) -> None:
    bench.establish(bench.web)
    refused = _info(bench, bench.ims)
    assert refused.status == 469
    assert bench.take() == []


def test_the_marks_are_seen_by_the_browser_only(bench: Any) -> None:
    """Recv-Info and the option tag: put in towards the browser, taken out towards IMS (RFC 8840 section 10)."""
    marks = (("Supported", "trickle-ice, timer, 100rel"), ("Recv-Info", "trickle-ice, x-other"))
    key, sent = bench.invite(bench.web, headers=marks)
    assert (sent.supported, sent.headers.elements("Recv-Info")) == (["timer", "100rel"], ["x-other"])
    answer = bench.reply(key, 200, bench.ims.answer(sent.body), tag="i1", headers=(("Supported", "timer"),))
    assert (answer.supported, answer.headers.elements("Recv-Info")) == (["timer", "trickle-ice"], ["trickle-ice"])
    bench.call_id = "back"
    key, sent = bench.invite(bench.ims)
    assert sent.headers.elements("Recv-Info") == ["trickle-ice"]
    answer = bench.reply(key, 200, bench.web.answer(sent.body), tag="w1", headers=marks)
    assert (answer.supported, answer.headers.elements("Recv-Info")) == (["timer", "100rel"], ["x-other"])


def test_other_packages_pass(bench: Any) -> None:
    request = bench.message("INFO", bench.web, b"Signal=1\r\n", to_tag="i1", kind="application/dtmf-relay")
    _, result = bench.hand(request, Side.WEB)
    assert result.request.body == b"Signal=1\r\n"


def test_truncation_at_every_byte() -> None:
    """Only `SdpError` escapes."""
    for length in range(len(FRAGMENT)):
        try:
            read_fragment(FRAGMENT[:length])
        except SdpError:
            continue


@given(st.integers(0, len(FRAGMENT)), st.binary(max_size=60))
def test_noise_behind_a_good_beginning(length: int, noise: bytes) -> None:
    try:
        read_fragment(FRAGMENT[:length] + noise)
    except SdpError:
        pass


def test_bounds() -> None:
    line = b"a=candidate:%d 1 udp 1 192.0.2.2 9 typ host\r\n"
    head = FRAGMENT.split(b"a=candidate")[0]
    with pytest.raises(SdpError, match="too many candidates"):
        read_fragment(head + b"".join(line % number for number in range(65)))
    with pytest.raises(SdpError, match="octets"):
        read_fragment(head + b"a=x:" + b"y" * 20_000)
