"""The RMF: what a call takes and gives back, and what it tells the TURN proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from imskit.media.events import LegEvent, Step
from imskit.media.plane import Address
from imskit.media.python_plane import PythonPlane
from imskit.sdp import ims_side, interworking, web_side
from imskit.sdp.attributes import Candidate, Fingerprint
from imskit.sdp.description import SessionDescription
from imskit.sdp.negotiation import LegMedia, MediaMode, MediaPlan
from imskit.sdp.profile import AMR, AMR_WB, OPUS, PCMA
from ue_agent.rmf import Call, Rmf

PAGE = web_side.WebEndpoint(
    1,
    "page",
    "p" * 24,
    (Candidate("1", 1, "udp", 1, "192.0.2.1", 50000, "relay"),),
    (Fingerprint("sha-256", ":".join(["AA"] * 32)),),
)
PHONE = ims_side.ImsEndpoint("127.0.0.1", 40000, 2)


class Gate:
    """What the TURN proxy's policy is told."""

    def __init__(self) -> None:
        self.open: list[Address] = []


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def rmf(gate: Gate) -> AsyncIterator[Rmf]:
    rmf = Rmf(PythonPlane(), ims_host=lambda: "127.0.0.1", admit=gate.open.append, retire=gate.open.remove)
    yield rmf
    await rmf.close()
    assert rmf.calls == 0 and gate.open == []


def nothing(side: str, event: LegEvent) -> None:
    """Take no notice."""


def agree(call: Call, offer: SessionDescription, *formats: object) -> MediaPlan:
    """Go through the exchange of a call from the page."""
    towards_ims = interworking.ims_offer(offer, call.ims_endpoint)
    answer, _ = ims_side.make_answer(towards_ims, PHONE, formats)  # type: ignore[arg-type]
    ims = ims_side.read_answer(towards_ims, answer)
    _, web = interworking.web_answer(offer, ims, call.web_endpoint)
    return interworking.plan(web, ims)


async def test_a_call_from_the_page(rmf: Rmf, gate: Gate) -> None:
    """Endpoints for both descriptions, the plan applied, everything given back."""
    call = rmf.open_call(page_offers=True, on_event=nothing)
    assert gate.open == [call.web_address] and rmf.plane.owns(call.web_address)
    web, ims = call.web_endpoint, call.ims_endpoint
    assert [(c.address, c.port, c.type) for c in web.candidates] == [(*call.web_address, "host")]
    assert web.ssrc is not None and web.cname and len(web.ice_pwd) == 24
    assert ims.address == "127.0.0.1" and ims.port % 2 == 0
    plan = agree(call, web_side.make_offer(PAGE, [OPUS, PCMA]), AMR_WB, AMR)
    assert plan.mode is MediaMode.TRANSCODE
    call.apply(plan)
    assert call.plan == plan
    stats = call.stats()
    assert stats.ims.remote == ("127.0.0.1", 40000)
    assert stats.waiting_for == "the peer's ICE checks"
    assert [(side, event.step) for side, event in call.events] == [("web", Step.ICE_STARTED)]
    await call.close()
    await call.close()
    assert not rmf.plane.owns(call.web_address)
    assert {("web", Step.CLOSED), ("ims", Step.CLOSED)} <= {(side, event.step) for side, event in call.events}


async def test_a_shared_format_is_planned_as_relay_and_applied(rmf: Rmf) -> None:
    call = rmf.open_call(page_offers=True, on_event=nothing)
    plan = agree(call, web_side.make_offer(PAGE, [OPUS, PCMA]), PCMA)
    assert plan.mode is MediaMode.RELAY
    call.apply(plan)
    call.apply(plan)


async def test_later_offers_of_the_page(rmf: Rmf) -> None:
    """The same credentials change nothing of ours; new ones bring new ones, and the certificate stays."""
    call = rmf.open_call(page_offers=True, on_event=nothing)
    offer = web_side.make_offer(PAGE, [OPUS])
    call.web_offer(offer)  # before the first plan: nothing to restart
    before = call.web_endpoint
    call.apply(agree(call, offer, AMR_WB))
    call.web_offer(offer)
    assert call.web_endpoint == before
    call.web_offer(web_side.make_offer(replace(PAGE, ice_ufrag="fresh", ice_pwd="q" * 24), [OPUS]))
    after = call.web_endpoint
    assert after.ice_ufrag != before.ice_ufrag and after.ice_pwd != before.ice_pwd
    assert after.fingerprints == before.fingerprints and after.candidates == before.candidates


async def test_rtcp_goes_where_the_answer_says(rmf: Rmf) -> None:
    call = rmf.open_call(page_offers=True, on_event=nothing)
    plan = agree(call, web_side.make_offer(PAGE, [OPUS]), AMR_WB)
    legs = rmf.plane._legs  # type: ignore[attr-defined]
    leg = legs[call._ims.id]
    for change, expected in (
        ({"rtcp_port": None, "rtcp_mux": False}, ("127.0.0.1", 40001)),
        ({"rtcp_port": 45000}, ("127.0.0.1", 45000)),
        ({"rtcp_port": 45000, "rtcp_address": "127.0.0.9"}, ("127.0.0.9", 45000)),
        ({"rtcp_mux": True}, ("127.0.0.1", 40000)),
    ):
        call.apply(MediaPlan(plan.web, replace(plan.ims, **change), plan.mode))
        assert leg.rtcp_remote == expected


async def test_a_plan_without_ice_is_refused(rmf: Rmf) -> None:
    call = rmf.open_call(page_offers=True, on_event=nothing)
    plan = agree(call, web_side.make_offer(PAGE, [OPUS]), AMR_WB)
    web: LegMedia = replace(plan.web, ice=None)
    with pytest.raises(ValueError, match="no ICE"):
        call.apply(MediaPlan(web, plan.ims, plan.mode))


async def test_calls_do_not_share_addresses(rmf: Rmf, gate: Gate) -> None:
    calls = [rmf.open_call(page_offers=index % 2 == 0, on_event=nothing) for index in range(20)]
    assert rmf.calls == 20
    assert len({call.web_address for call in calls}) == len({call.ims_endpoint.port for call in calls}) == 20
    assert sorted(gate.open) == sorted(call.web_address for call in calls)


async def test_an_access_that_is_down_leaves_nothing_behind(gate: Gate) -> None:
    """S7-ACCESS: the address of the IMS interface is gone."""
    rmf = Rmf(PythonPlane(), ims_host=lambda: "198.51.100.1", admit=gate.open.append, retire=gate.open.remove)
    with pytest.raises(OSError):
        rmf.open_call(page_offers=True, on_event=nothing)
    assert rmf.calls == 0 and gate.open == []


async def test_no_second_virtual_leg_on_failure(gate: Gate) -> None:
    """When the page's leg cannot be made, the ports towards IMS are given back."""
    rmf = Rmf(PythonPlane(), ims_host=lambda: "127.0.0.1", ims_ports=range(40100, 40102), virtual_host="no address")
    for _ in range(2):
        with pytest.raises(ValueError):
            rmf.open_call(page_offers=True, on_event=nothing)
    assert rmf.calls == 0 and gate.open == []
