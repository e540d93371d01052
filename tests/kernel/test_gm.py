"""Registration and calls, with the kernel's IPsec at one end of Gm or both, and on a bad line.

The agent's IMS client with a card, the simulated core and phone: TS 34.229-1 case 8.1, TS 33.203 clause 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair
from imskit.secrets import Secret
from simulators.lab.station import Station
from simulators.phone.config import PhoneConfig
from simulators.phone.phone import Phone

from ..ue_agent.gm_security import conftest as gm

lab, network = gm.lab, gm.network  # fixtures

type Kinds = tuple[str, str]

by_kinds = pytest.mark.parametrize(
    "kinds", [("kernel", "kernel"), ("userspace", "kernel"), ("kernel", "userspace")], ids="-to-".join
)
"""Back end of the UEs and of the P-CSCF."""
_PATIENCE = 120.0
"""Seconds for a step on a bad line, where SIP's own timers of 2 s and more do the work."""
_TALK_SECONDS = 4.0

by_transport = pytest.mark.parametrize("transport", ["UDP", "TCP"])


@by_kinds
@by_transport
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("pair", [*STANDARD_PAIRS, *LAB_PAIRS], ids=str)
async def test_registration_and_calls(
    lab: Any, pair: AlgorithmPair, version: int, transport: str, kinds: Kinds
) -> None:
    """Register with every pair, call and be called; nothing was refused, and no agreement is left at the end."""
    of_ue, of_core = kinds
    core = await lab.core(gm={"lab_algorithms": True, "backend": of_core}, version=version)
    settings = {"version": version, "transport": transport, "backend": of_ue}
    ue = await lab.ue(**settings, algorithms=[str(pair)], lab_algorithms=True)
    phone = await lab.phone(**settings, ipsec_algorithms=[str(pair)])
    await ue.registered()
    await lab.phone_registered(phone)
    assert ue.client.status.security == f"IPsec {pair}"
    host = gm.ADDRESSES[version][0]
    await gm.call(ue, host)
    await gm.called(ue, phone, lab.network.phone, host)
    (at_work,) = ue.sets
    assert at_work["algorithms"] == str(pair)
    assert min(at_work["packets_in"], at_work["packets_out"]) > 5
    at_core = lab.network.core.call(core.security)
    assert at_core["backend"] == of_core
    assert [each["stage"] for each in at_core["agreements"]] == ["confirmed", "confirmed"]
    assert not any(at_core["dropped"].values()), at_core["dropped"]
    await ue.stop()
    if of_ue == "kernel":
        assert lab.network.ue.command("ip", "xfrm", "state") == lab.network.ue.command("ip", "xfrm", "policy") == ""


@pytest.fixture
def bad_line(network: Any) -> Iterator[None]:
    """300 ms and 5 % loss each way between the UE and the core."""
    ends = ((network.ue, "ims0"), (network.core, "ue0"))
    for station, interface in ends:
        station.command(*f"tc qdisc add dev {interface} root netem delay 300ms loss 5%".split())
    yield
    for station, interface in ends:
        station.command(*f"tc qdisc delete dev {interface} root".split())


@by_kinds
@by_transport
@pytest.mark.timeout(300)
async def test_registration_and_call_on_a_bad_line(lab: Any, bad_line: None, transport: str, kinds: Kinds) -> None:
    of_ue, of_core = kinds
    await lab.core(gm={"backend": of_core})
    settings = {"transport": transport, "backend": of_ue}
    ue = await lab.ue(**settings)
    phone = await lab.phone(**settings)
    await ue.registered(within=_PATIENCE)
    await lab.phone_registered(phone)
    ue.handle(ims.Dial("call", "tel:+15550200", gm.offer(gm.ADDRESSES[4][0])))
    await ue.until(lambda: ue.of(ims.Answered) or ue.of(ims.Ended), within=_PATIENCE)
    assert not ue.of(ims.Ended), ue.of(ims.Ended)
    ue.handle(ims.Hangup("call"))
    await ue.until(lambda: ue.of(ims.Ended), within=_PATIENCE)


@pytest.mark.timeout(300)
async def test_a_call_with_media_on_a_bad_line(lab: Any, network: Any, bad_line: None) -> None:
    """Two simulated phones: the signalling inside ESP, the media beside it, with what the line loses."""
    network.core.command("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    await lab.core(gm={"backend": "kernel"})
    callee = await lab.phone(backend="kernel")
    address, near, _, _ = gm.ADDRESSES[4]
    caller = Phone(
        PhoneConfig(
            impi=f"001010000000000100@{gm.DOMAIN}",
            impus=[f"sip:+15550100@{gm.DOMAIN}"],
            domain=gm.DOMAIN,
            k=Secret(gm.K),
            opc=Secret(gm.OPC),
            address=address,
            p_cscf=gm.at(near),
            security="ipsec",
            backend="kernel",
        )
    )
    await lab._on(network.ue, caller.start, caller.close)
    await _until(network.ue, lambda: caller.status()["registration"] == "registered")
    await _until(network.phone, lambda: callee.status()["registration"] == "registered")
    network.ue.call(lambda: caller.dial("+15550200"))
    await _until(network.ue, lambda: (caller.status()["call"] or {}).get("state") == "answered")
    await asyncio.sleep(_TALK_SECONDS)
    network.ue.call(caller.hang_up)
    await _until(network.ue, lambda: caller.last)
    await _until(network.phone, lambda: callee.last)
    for phone in (caller, callee):
        media = phone.last["media"]
        assert media["packets_received"] > 100
        assert media["packets_lost"] > 0


async def _until(station: Station, condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110  # the phone tells nobody
            await asyncio.sleep(0.05)

    await station.run(asyncio.wait_for(wait(), _PATIENCE))
