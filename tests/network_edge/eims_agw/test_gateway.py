"""The gateway with real media at both ends [A-AGW, R-SEC, R-CONSENT]: both directions, re-offers, forks, losses."""

import asyncio

import pytest

from imskit.media import transports
from imskit.media.events import Step
from imskit.observe.events import read_events
from imskit.rtp.rtcp import (
    CNAME,
    ReceiverReport,
    ReportBlock,
    SourceChunk,
    SourceDescription,
    encode_compound,
)
from imskit.sdp import web_side
from imskit.sdp.attributes import Direction
from imskit.sdp.description import SessionDescription
from imskit.sdp.negotiation import next_offer
from imskit.sdp.profile import AMR_WB, IMS, OPUS, PCMA, WEBRTC
from network_edge.eims_agw import gateway as gateway_module
from network_edge.eims_agw.engine.dialog import Side
from network_edge.iq.gateway import (
    TOWARDS_IMS,
    TOWARDS_WEB,
    AnswerRequest,
    CodecFlags,
    DeleteRequest,
    GatewayError,
    GatewayUnavailableError,
    Loss,
    MediaFlags,
    OfferRequest,
    QueryRequest,
    Transport,
    UnknownCallError,
)


@pytest.mark.parametrize("phone_formats,mode", [((AMR_WB,), "transcode"), ((PCMA,), "relay")])
async def test_a_call_from_the_browser(bench, tmp_path, phone_formats, mode):
    """Speech both ways; transcoded only where the sides share no format; figures are true."""
    bench.events = tmp_path / "events"
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone(formats=phone_formats)
    towards_ims, towards_web = await bench.from_browser(gateway, browser, phone)
    assert IMS.violations(towards_ims) == [] and WEBRTC.violations(towards_web, offer=False) == []
    await bench.speak(browser, phone)
    figures = await gateway.query(QueryRequest("call"))
    assert figures.received["web"].packets == 40 and figures.received["ims"].packets == 40
    assert figures.total.packets == 80
    medias = [figures.details["tags"][tag]["medias"][0] for tag in ("web", "ims")]
    assert [media["mode"] for media in medias] == [mode, mode]
    assert figures.details["tags"]["web"]["in dialogue with"] == "ims"
    assert [media["transcoded"] for media in medias] == ([40, 40] if mode == "transcode" else [0, 0])
    assert list(read_events(bench.events)) == []
    await gateway.delete(DeleteRequest("call", "web", delay=0))
    assert gateway.sessions == 0 and bench.lost == []
    (report,) = read_events(bench.events)
    assert (report["event"], report["call"], report["lost"]) == ("media-report", "call", "")
    assert [report[name] for name in ("web_received", "web_sent", "ims_received", "ims_sent")] == [40] * 4
    one, other = ("opus", "AMR-WB") if mode == "transcode" else ("PCMA", "PCMA")
    assert (report["to_ims_codecs"], report["to_web_codecs"]) == (f"{one} > {other}", f"{other} > {one}")
    for way in ("to_ims", "to_web"):
        assert report[f"{way}_mode"] == mode and report[f"{way}_steps"] == (mode == "transcode")
        assert report[f"{way}_transcoded"] == 40 * report[f"{way}_steps"]
        assert (report[f"{way}_added_ms"] > 0) is (mode == "transcode")


async def test_a_call_from_ims(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(offers=False), bench.phone()
    towards_web, towards_ims = await bench.from_phone(gateway, browser, phone)
    assert WEBRTC.violations(towards_web) == [] and IMS.violations(towards_ims, offer=False) == []
    await bench.speak(browser, phone)


async def test_ims_is_answered_with_the_browsers_own_format(bench):
    """Nothing is transcoded where nothing need be."""
    gateway, browser, phone = bench.gateway(), bench.browser(offers=False, formats=(PCMA,)), bench.phone()
    await bench.from_phone(gateway, browser, phone)
    assert phone.codec.encoding == browser.codec.encoding == "PCMA"


async def test_codec_flags(bench):
    gateway, browser = bench.gateway(), bench.browser()
    flags = MediaFlags(transport=Transport.AVP, codec=CodecFlags(transcode=("AMR",), mask=("opus",)))
    offer = await gateway.offer(OfferRequest("call", "web", browser.offer(), flags))
    names = [value.split()[1] for value in offer.media[0].attributes("rtpmap")]
    assert names == ["AMR/8000", "AMR/8000", "PCMA/8000", "telephone-event/8000"]
    with pytest.raises(GatewayError) as refusal:
        flags = MediaFlags(codec=CodecFlags(mask=("all",)))
        await gateway.offer(OfferRequest("other", "web", browser.offer(), flags))
    assert refusal.value.status == 488 and gateway.sessions == 1


async def test_hold_and_resume(bench):
    """A hold by the phone reaches the browser and back; the media stop and go on; DTLS is not disturbed."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    for way in (Direction.SENDONLY, Direction.SENDRECV):
        phone.said = next_offer(phone.said, phone.media, direction=way)
        towards_web = await gateway.offer(OfferRequest("call", "ims", phone.said, TOWARDS_WEB, to_tag="web"))
        assert towards_web.direction_of(towards_web.media[0]) is way
        answer = browser.take_offer(towards_web)
        towards_ims = await gateway.answer(AnswerRequest("call", "ims", "web", answer, TOWARDS_IMS))
        assert towards_ims.direction_of(towards_ims.media[0]) is way.reversed
    await bench.speak(browser, phone)
    assert [event.step for event in browser.events].count(Step.DTLS_CONNECTED) == 1


async def test_a_session_refresh_changes_nothing(bench):
    """The same offer again: the same description back, word for word, and the sound goes on."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS, to_tag="ims"))
    answer = phone.take_offer(towards_ims)
    towards_web = await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
    first = browser.take_answer(towards_web)
    assert first == browser.media
    await bench.speak(browser, phone)
    assert [event.step for event in browser.events].count(Step.DTLS_CONNECTED) == 1


async def test_ice_restart(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    before = browser.media.ice
    browser.leg.restart()
    browser.said = web_side.make_offer(browser.endpoint, browser.formats)
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS, to_tag="ims"))
    answer = phone.take_offer(towards_ims)
    towards_web = await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
    media = browser.take_answer(towards_web)
    assert media.ice.ufrag != before.ufrag
    await bench.speak(browser, phone)
    assert bench.lost == []


def _restarted(browser):
    browser.leg.restart()
    return web_side.make_offer(browser.endpoint, browser.formats)


@pytest.mark.parametrize("refused_by", ["ims", "gateway"])
async def test_a_refused_ice_restart_leaves_everything_as_it_was(bench, refused_by):
    """RFC 3261 14.1, RFC 8839 4.4.1.1.1: nobody answers it; the next offers, of either side, are of the old agent."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    _, towards_web = await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    before, offer = browser.media.ice, _restarted(browser)
    if refused_by == "gateway":
        offer = SessionDescription.parse(str(offer).replace("a=rtcp-mux\r\n", ""))
        with pytest.raises(GatewayError):
            await gateway.offer(OfferRequest("call", "web", offer, TOWARDS_IMS, to_tag="ims"))
    else:
        await gateway.offer(OfferRequest("call", "web", offer, TOWARDS_IMS, to_tag="ims"))
    browser.leg.cancel_restart()  # 491, 488, 408: the page rolls back
    browser.said = next_offer(browser.said, browser.media)
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS, to_tag="ims"))
    answer = phone.take_offer(towards_ims)
    towards_web = await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
    media = browser.take_answer(towards_web)
    assert media.ice == before
    await bench.speak(browser, phone)
    phone.said = next_offer(phone.said, phone.media)
    towards_web = await gateway.offer(OfferRequest("call", "ims", phone.said, TOWARDS_WEB, to_tag="web"))
    assert towards_web.media[0].attribute("ice-ufrag") == before.ufrag
    phone.take_answer(
        await gateway.answer(AnswerRequest("call", "ims", "web", browser.take_offer(towards_web), TOWARDS_IMS))
    )
    await bench.speak(browser, phone)
    assert [event.step for event in browser.events].count(Step.DTLS_CONNECTED) == 1 and bench.lost == []


async def test_an_ice_restart_that_is_tried_again_is_done(bench):
    """After a refusal the page restarts with other credentials; and once more before that one has found a pair."""
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    seen = {browser.media.ice.ufrag}
    await gateway.offer(OfferRequest("call", "web", _restarted(browser), TOWARDS_IMS, to_tag="ims"))
    browser.leg.cancel_restart()
    for connected in (False, True):
        browser.said = _restarted(browser)
        again = 2 if connected else 1  # the same offer comes again: it is the same restart
        for _ in range(again):
            towards_ims = await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS, to_tag="ims"))
        answer = phone.take_offer(towards_ims)
        for _ in range(again):
            towards_web = await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
        assert towards_web.media[0].attribute("ice-ufrag") not in seen
        seen.add(browser.take_answer(towards_web).ice.ufrag)
    await bench.speak(browser, phone)
    leg = gateway._calls["call"][0].media._web
    async with asyncio.timeout(5):
        while leg._old_ice is not None:  # noqa: ASYNC110 (no event tells it)
            await asyncio.sleep(0.02)  # until the new agent has a pair
    await bench.speak(browser, phone)
    assert len(seen) == 3 and leg._next_ice is None and bench.lost == []


async def test_the_browser_that_was_called_makes_a_later_offer(bench):
    """Its DTLS role stays: we were the server, and answer an open offer as passive (RFC 8842)."""
    gateway, browser, phone = bench.gateway(), bench.browser(offers=False), bench.phone()
    await bench.from_phone(gateway, browser, phone)
    await bench.speak(browser, phone)
    browser.said = next_offer(browser.said, browser.media)
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS, to_tag="ims"))
    answer = phone.take_offer(towards_ims)
    towards_web = await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB))
    assert towards_web.media[0].attribute("setup") == "passive"
    await bench.speak(browser, phone)


async def test_two_early_answers_and_the_last_is_in_force(bench):
    """Forks: each answer is answered; the sound follows the last one."""
    gateway, browser = bench.gateway(), bench.browser()
    one, two = bench.phone(), bench.phone(formats=(PCMA,))
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    for tag, phone in (("one", one), ("two", two)):
        answer = phone.take_offer(towards_ims)
        towards_web = await gateway.answer(AnswerRequest("call", "web", tag, answer, TOWARDS_WEB))
        browser.take_answer(towards_web)
    await bench.speak(browser, two)
    await gateway.delete(DeleteRequest("call", "web", "one", delay=0))
    assert gateway.sessions == 1
    await gateway.delete(DeleteRequest("call", delay=0))
    assert gateway.sessions == 0


async def test_branches_have_media_of_their_own(bench):
    gateway, browser = bench.gateway(), bench.browser()
    offers = [
        await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS, via_branch=branch))
        for branch in ("a", "b", "a")
    ]
    ports = [offer.media[0].port for offer in offers]
    assert ports[0] == ports[2] != ports[1] and gateway.sessions == 2
    await gateway.delete(DeleteRequest("call", "web", via_branch="a", delay=0))
    assert gateway.sessions == 1


async def test_client_hello_before_the_answer(bench):
    """The browser is called and connects before its answer has come to the gateway (rtpengine's issue 2145)."""
    gateway, browser, phone = bench.gateway(), bench.browser(offers=False), bench.phone()
    towards_web = await gateway.offer(OfferRequest("call", "ims", phone.offer(), TOWARDS_WEB))
    answer = browser.take_offer(towards_web)
    await browser.until(Step.ICE_STARTED)
    for _ in range(20):
        await asyncio.sleep(0.02)  # real time, in which checks and a ClientHello arrive
    towards_ims = await gateway.answer(AnswerRequest("call", "ims", "web", answer, TOWARDS_IMS))
    phone.take_answer(towards_ims)
    await bench.speak(browser, phone)


async def test_deleted_with_a_grace(bench):
    """Media end when the grace is over; an offer within it takes the call back."""
    gateway, browser, phone = bench.gateway(grace=0.2), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    await gateway.delete(DeleteRequest("call", "web"))
    assert gateway.sessions == 1
    async with asyncio.timeout(5):
        await gateway.drained()
    with pytest.raises(UnknownCallError):
        await gateway.delete(DeleteRequest("call", "web"))
    with pytest.raises(UnknownCallError):
        await gateway.query(QueryRequest("call"))


async def test_consent_lost_is_not_a_media_timeout(bench, monkeypatch):
    """R-CONSENT: a browser that has gone is told as that, once."""
    monkeypatch.setattr(transports, "CONSENT_SECONDS", 0.5)
    monkeypatch.setattr(transports, "_CONSENT_INTERVAL", 0.1)
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    await bench.from_browser(gateway, browser, phone)
    await bench.speak(browser, phone)
    browser.vanish()
    await asyncio.wait_for(told.wait(), 10)
    assert [(lost.call_id, lost.loss) for lost in bench.lost] == [("call", Loss.CONSENT)]
    figures = await gateway.query(QueryRequest("call"))
    assert figures.details["tags"]["web"]["lost"] == "consent-lost"


async def test_media_timeout_of_ims(bench):
    """A phone that falls silent is told; one that was never heard may be ringing yet."""
    gateway, browser, phone = bench.gateway(media_timeout=1.0), bench.browser(), bench.phone()
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)
    await phone.talk(900, 0.1)
    await asyncio.wait_for(told.wait(), 15)
    assert [lost.loss for lost in bench.lost] == [Loss.MEDIA_TIMEOUT]


async def test_a_phone_that_rings_is_not_lost(bench, monkeypatch):
    """An early answer, and no sound for longer than the media timeout; then too long to be ringing."""
    monkeypatch.setattr(gateway_module, "_HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(gateway_module, "RINGING_SECONDS", 2.5)
    gateway, browser, phone = bench.gateway(media_timeout=0.2), bench.browser(), bench.phone()
    phone.leg.reports.close()  # it does not even send RTCP
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    start = asyncio.get_running_loop().time()
    await bench.from_browser(gateway, browser, phone)
    await asyncio.wait_for(told.wait(), 15)
    assert asyncio.get_running_loop().time() - start > 2.4
    assert [lost.loss for lost in bench.lost] == [Loss.MEDIA_TIMEOUT]


async def test_a_wrong_fingerprint_is_told_and_no_sound_passes(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    offer = SessionDescription.parse(str(browser.offer()))
    offer.media[0].remove_attributes("fingerprint")
    offer.media[0].add_attribute("fingerprint", "sha-256 " + ":".join(["AA"] * 32))
    towards_ims = await gateway.offer(OfferRequest("call", "web", offer, TOWARDS_IMS))
    answer = phone.take_offer(towards_ims)
    browser.take_answer(await gateway.answer(AnswerRequest("call", "web", "ims", answer, TOWARDS_WEB)))
    await asyncio.wait_for(told.wait(), 10)
    assert bench.lost[0].loss is Loss.TRANSPORT and "fingerprint" in bench.lost[0].reason
    await phone.talk(900, 0.2)
    assert browser.packets == []


@pytest.mark.parametrize(
    "change,status",
    [
        (lambda sdp: sdp.replace("m=audio", "m=video"), 488),
        (lambda sdp: sdp.replace("a=fingerprint", "a=xingerprint"), 488),
        (lambda sdp: sdp.replace("a=rtcp-mux\r\n", ""), 488),
        (lambda sdp: sdp.replace("a=ice-pwd", "a=ice-xyz"), 488),
    ],
)
async def test_offers_that_cannot_be_taken(bench, change, status):
    gateway, browser = bench.gateway(), bench.browser()
    offer = SessionDescription.parse(change(str(browser.offer())))
    with pytest.raises(GatewayError) as refusal:
        await gateway.offer(OfferRequest("call", "web", offer, TOWARDS_IMS))
    assert refusal.value.status == status and gateway.sessions == 0


async def test_sides_that_this_gateway_does_not_join(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(formats=(OPUS,)), bench.phone()
    for offer, flags in (
        (browser.offer(), MediaFlags(transport=Transport.DTLS_SAVPF)),
        (browser.offer(), MediaFlags(transport=Transport.SAVP, sdes=("off",))),
        (phone.offer(), MediaFlags(transport=Transport.AVP)),
    ):
        with pytest.raises(GatewayError) as refusal:
            await gateway.offer(OfferRequest("call", "tag", offer, flags))
        assert refusal.value.status == 488
    assert gateway.sessions == 0


async def test_answers_without_an_offer(bench):
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    with pytest.raises(UnknownCallError):
        await gateway.answer(AnswerRequest("call", "web", "ims", phone.offer()))
    towards_ims = await gateway.offer(OfferRequest("call", "web", browser.offer(), TOWARDS_IMS))
    with pytest.raises(UnknownCallError):
        await gateway.answer(AnswerRequest("call", "stranger", "ims", phone.take_offer(towards_ims)))


async def test_limit_and_draining(bench):
    gateway, browser, phone = bench.gateway(calls=1), bench.browser(), bench.phone()
    await bench.from_browser(gateway, browser, phone)
    with pytest.raises(GatewayUnavailableError):
        await gateway.offer(OfferRequest("second", "web", browser.offer(), TOWARDS_IMS))
    gateway.draining = True
    await gateway.offer(OfferRequest("call", "web", browser.said, TOWARDS_IMS, to_tag="ims"))
    await gateway.delete(DeleteRequest("call", delay=0))
    with pytest.raises(GatewayUnavailableError, match="draining"):
        await gateway.offer(OfferRequest("third", "web", browser.offer(), TOWARDS_IMS))
    await gateway.drained()


async def test_a_circuit_breaker_ends_the_sending(bench, monkeypatch):
    """RFC 8083 4.2 within a call: the phone's RTCP says again and again that nothing arrives."""
    monkeypatch.setattr(gateway_module, "_HOUSEKEEPING_SECONDS", 0.02)
    gateway, browser, phone = bench.gateway(), bench.browser(), bench.phone()
    phone.leg.reports.close()  # its own, true ones
    told = asyncio.Event()
    gateway.on_media_lost = lambda lost: (bench.lost.append(lost), told.set())
    await bench.from_browser(gateway, browser, phone)
    await browser.until(Step.DTLS_CONNECTED)

    async def complain():
        await phone.hears(1)
        block = ReportBlock(phone.packets[-1].ssrc, 0, 0, 7, 0, 0, 0)
        ssrc = phone.plane.stats(phone.leg_id).sending.ssrc
        report = [ReceiverReport(ssrc, (block,)), SourceDescription((SourceChunk(ssrc, ((CNAME, b"phone"),)),))]
        while not told.is_set():
            phone.plane.send_rtcp(phone.leg_id, encode_compound(report))
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        talk = group.create_task(browser.talk(500, 10))
        group.create_task(complain())
        await asyncio.wait_for(told.wait(), 10)
        talk.cancel()
    assert [lost.loss for lost in bench.lost] == [Loss.CIRCUIT_BREAKER] and "nothing arrives" in bench.lost[0].reason
    before = gateway._calls["call"][0].media.stats(Side.IMS)
    await browser.talk(500, 0.2)
    after = gateway._calls["call"][0].media.stats(Side.IMS)
    assert before.packets_sent == after.packets_sent > 0
    assert gateway._calls["call"][0].media.stats(Side.WEB).packets_received > before.packets_sent


async def test_an_offer_that_nobody_answers_is_forgotten(bench):
    gateway = bench.gateway(unanswered=0.1)
    await gateway.offer(OfferRequest("call", "web", bench.browser().offer(), TOWARDS_IMS))
    async with asyncio.timeout(5):
        await gateway.drained()
    assert await gateway.list() == ()
