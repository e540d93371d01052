"""What the gateway can be on its two sides: ICE-lite or full, SDES or plain RTP; candidates that come late."""

import asyncio
from dataclasses import replace

import pytest

from imskit.media import transports
from imskit.media.events import Step
from imskit.media.webrtc_leg import WebRtcLeg
from imskit.sdp.description import SessionDescription
from imskit.sdp.profile import IMS, PCMA, WEBRTC
from imskit.sdp.sdes import Suite
from network_edge.eims_agw.call_media import CallMedia
from network_edge.eims_agw.engine.dialog import Side
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_IMS_SDES,
    TOWARDS_WEB,
    AnswerRequest,
    CandidatesRequest,
    GatewayError,
    IceLite,
    Loss,
    MediaFlags,
    OfferRequest,
    QueryRequest,
    Transport,
    UnknownCallError,
)

LITE = {"ice_lite": True}


@pytest.mark.parametrize("caller", ["browser", "phone"])
async def test_ice_lite(bench, caller):
    """RFC 8445 5.3: a=ice-lite, host candidates; the full peer is controlling whoever made the offer."""
    gateway, phone = bench.gateway(node=LITE), bench.phone()
    if caller == "browser":
        browser = bench.browser()
        _, towards_web = await bench.from_browser(gateway, browser, phone)
    else:
        browser = bench.browser(offers=False)
        towards_web, _ = await bench.from_phone(gateway, browser, phone)
    assert towards_web.attribute("ice-lite") == "" and browser.leg.remote.ice_lite
    assert WEBRTC.violations(towards_web, offer=caller == "phone") == []
    assert {candidate.type for candidate in browser.leg.remote.candidates} == {"host"}
    await bench.speak(browser, phone)


async def test_an_ice_lite_gateway_makes_no_checks(bench, monkeypatch):
    """It answers, and sends no request of its own: neither a check nor consent (RFC 7675 section 1)."""
    requests = []
    send = WebRtcLeg._send

    def watched(leg, data, address):
        if data[:2] == b"\0\x01":
            requests.append(leg)
        send(leg, data, address)

    monkeypatch.setattr(WebRtcLeg, "_send", watched)
    monkeypatch.setattr(transports, "_CONSENT_INTERVAL", 0.05)
    gateway, browser, phone = bench.gateway(node=LITE), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    assert len(requests) > 5 and set(requests) == {browser.leg}


async def test_an_ice_lite_gateway_infers_that_the_browser_is_gone(bench, monkeypatch):
    """Its consent checks no longer come; while they come nothing is lost."""
    monkeypatch.setattr(transports, "CONSENT_SECONDS", 1.5)
    monkeypatch.setattr(transports, "_CONSENT_INTERVAL", 0.1)
    gateway, browser, phone = bench.gateway(node=LITE), bench.browser(), bench.phone()
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    assert bench.lost == []
    await browser.leg._ice.close()
    await asyncio.wait_for(told.wait(), 10)
    assert [lost.loss for lost in bench.lost] == [Loss.CONSENT]


async def test_both_sides_ice_lite(bench):
    """Nobody would make a check: told as a failed transport, at once."""
    gateway, browser, phone = bench.gateway(node=LITE), bench.browser(ice_lite=True), bench.phone()
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    await bench.from_browser(gateway, browser, phone)
    await asyncio.wait_for(told.wait(), 10)
    assert bench.lost[0].loss is Loss.TRANSPORT and "ICE-lite" in bench.lost[0].reason


@pytest.mark.parametrize(
    "word,lite", [(IceLite.BACKWARD, True), (IceLite.BOTH, True), (IceLite.FORWARD, False), (IceLite.OFF, False)]
)
async def test_the_controllers_word_on_ice_lite(bench, word, lite):
    """NG's ``ICE-lite`` overrides the configuration; the browser is behind us when it makes the offer."""
    gateway = bench.gateway(node={"ice_lite": not lite})
    browser, phone = bench.browser(), bench.phone()
    _, towards_web = await bench.from_browser(gateway, browser, phone, flags=replace(TOWARDS_IMS, ice_lite=word))
    assert (towards_web.attribute("ice-lite") is not None) is lite
    await browser.until(Step.DTLS_CONNECTED)


@pytest.mark.parametrize("suite", list(Suite))
async def test_sdes_towards_ims(bench, suite):
    """SRTP on both sides of the gateway, speech both ways; every suite (RFC 4568, RFC 7714 section 14)."""
    gateway, browser = bench.gateway(), bench.browser(formats=(PCMA,))
    phone = bench.phone(formats=(PCMA,), suites=(suite,))
    towards_ims, _ = await bench.from_browser(gateway, browser, phone, flags=TOWARDS_IMS_SDES)
    assert towards_ims.media[0].protocol == "RTP/SAVP" and len(towards_ims.media[0].attributes("crypto")) == 3
    assert IMS.violations(towards_ims)[0].endswith("RTP/SAVP"), "nothing of WebRTC is in it"
    assert phone.media.srtp.suite is suite
    await bench.speak(browser, phone)
    entry = (await gateway.query(QueryRequest("call"))).details["tags"]["ims"]["medias"][0]
    assert entry["protocol"] == "RTP/SAVP" and "dropped" not in entry["streams"][0]


async def test_sdes_from_ims(bench):
    """An IMS side that offers RTP/SAVP is answered so, whatever the flags of the answer say."""
    gateway, browser, phone = bench.gateway(), bench.browser(offers=False), bench.phone(suites=tuple(Suite))
    towards_web, towards_ims = await bench.from_phone(gateway, browser, phone)
    assert WEBRTC.violations(towards_web) == [] and "crypto" not in str(towards_web)
    assert towards_ims.media[0].protocol == "RTP/SAVP" and len(towards_ims.media[0].attributes("crypto")) == 1
    await bench.speak(browser, phone)


async def test_keys_go_on_in_a_session_refresh(bench):
    """RFC 4568 7.1.4: the same key keeps its context; and both still hear each other."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone(suites=tuple(Suite))
    await bench.from_browser(gateway, browser, phone, flags=TOWARDS_IMS_SDES)
    await bench.speak(browser, phone)
    before = phone.media.srtp
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS_SDES, to_tag="ims"))
    answer = phone.take_offer(towards_ims)
    await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
    assert phone.media.srtp == before
    await bench.speak(browser, phone)
    entry = (await gateway.query(QueryRequest("call"))).details["tags"]["ims"]["medias"][0]
    assert "dropped" not in entry["streams"][0]


async def test_forged_srtp_of_ims_is_dropped(bench):
    """Plain RTP, and SRTP of another key, at the port of a secured IMS side: counted, not passed on."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone(suites=tuple(Suite))
    await bench.from_browser(gateway, browser, phone, flags=TOWARDS_IMS_SDES)
    await browser.until(Step.DTLS_CONNECTED)
    phone.leg._plane._legs[phone.leg.id].secured = False  # it forgets SRTP
    await phone.talk(900, 0.2)
    stats = gateway._calls["call"][0].media.stats(Side.IMS)
    async with asyncio.timeout(10):
        while not stats.dropped:
            await asyncio.sleep(0)
            stats = gateway._calls["call"][0].media.stats(Side.IMS)
    assert set(stats.dropped) <= {"authentication", "malformed", "replay"}
    assert browser.packets == [] and stats.packets_received == 0


async def test_the_configured_transport_towards_ims(bench):
    """Where the controller says nothing; plain RTP by default, and the controller's word counts."""
    said = {}
    for name, node, flags in (
        ("default", {}, MediaFlags()),
        ("configured", {"ims_transport": Transport.SAVP}, MediaFlags()),
        ("overridden", {"ims_transport": Transport.SAVP}, TOWARDS_IMS),
        ("feedback", {}, MediaFlags(transport=Transport.SAVPF)),
    ):
        offer = await bench.gateway(node=node).offer(OfferRequest("call", "web", bench.browser().offer(), flags))
        said[name] = (offer.media[0].protocol, bool(offer.media[0].attributes("crypto")))
    assert said == {
        "default": ("RTP/AVP", False),
        "configured": ("RTP/SAVP", True),
        "overridden": ("RTP/AVP", False),
        "feedback": ("RTP/SAVPF", True),
    }


async def test_flags_of_sdes(bench):
    gateway, browser = bench.gateway(), bench.browser()

    async def suites(*words):
        flags = replace(TOWARDS_IMS_SDES, sdes=words)
        offer = await gateway.offer(OfferRequest("-".join(words), "web", browser.offer(), flags))
        return [value.split()[1] for value in offer.media[0].attributes("crypto")]

    assert await suites("no-AES_CM_128_HMAC_SHA1_32", "pad") == ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"]
    assert await suites("only-AES_CM_128_HMAC_SHA1_80") == ["AES_CM_128_HMAC_SHA1_80"]
    for words in (("off",), ("only-F8_128_HMAC_SHA1_80",)):
        with pytest.raises(GatewayError) as refusal:
            await suites(*words)
        assert refusal.value.status == 488


async def test_an_answer_that_breaks_the_rules_of_sdes(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone(suites=tuple(Suite))
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS_SDES))
    answer = str(phone.take_offer(towards_ims))
    for wrong in (answer.replace("crypto:1", "crypto:9"), answer.replace("crypto", "xcrypto"), str(towards_ims)):
        with pytest.raises(GatewayError) as refusal:
            request = AnswerRequest("call", "web", "ims", SessionDescription.parse(wrong), TOWARDS_WEB)
            await gateway.answer(request)
        assert refusal.value.status == 488
    browser.take_answer(
        await gateway.answer(AnswerRequest("call", "web", "ims", SessionDescription.parse(answer), TOWARDS_WEB))
    )
    await bench.speak(browser, phone)


async def test_candidates_after_the_description(bench, monkeypatch):
    """RFC 8840: a browser that makes no checks is found by its late candidate alone; foreign ones are ignored."""
    taken = []
    add = CallMedia.web_candidates

    def watched(media, ufrag, password, candidates):
        known = len(media._web._ice._connection.remote_candidates)
        add(media, ufrag, password, candidates)
        taken.append((ufrag, known))

    monkeypatch.setattr(CallMedia, "web_candidates", watched)
    gateway, browser, phone = bench.gateway(), bench.browser(offers=False, ice_lite=True), bench.phone()
    towards_web = await gateway.offer(OfferRequest("call", "ims", phone.offer(), TOWARDS_WEB))
    answer = browser.take_offer(towards_web)
    answer.media[0].remove_attributes("candidate", "end-of-candidates")
    phone.take_answer(await gateway.answer(AnswerRequest("call", "ims", "web", answer, TOWARDS_IMS)))
    local = browser.leg.local
    right = CandidatesRequest("call", "web", local.ufrag, local.password.reveal(), local.candidates, ended=True)
    await gateway.candidates(replace(right, ufrag="another"))
    await gateway.candidates(replace(right, pwd="x" * 24))
    assert gateway._calls["call"][0].media._web._ice._connection.remote_candidates == []
    await gateway.candidates(right)
    assert [known for _, known in taken] == [0, 0, 0]
    await bench.speak(browser, phone)


async def test_candidates_of_nobody(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    request = CandidatesRequest("call", "ims", "ufrag", "x" * 24)
    with pytest.raises(UnknownCallError):
        await gateway.candidates(request)
    await bench.from_browser(gateway, browser, phone)
    with pytest.raises(GatewayError, match="IMS side"):
        await gateway.candidates(request)
