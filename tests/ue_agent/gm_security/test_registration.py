"""Registration and calls inside security associations, on real sockets between network namespaces [S7-IMS]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair

from .conftest import ADDRESSES, call, called

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("pair", [*STANDARD_PAIRS, *LAB_PAIRS], ids=str)
async def test_every_pair(lab: Any, pair: AlgorithmPair, transport: str, version: int) -> None:
    """Register (TS 34.229-1 case 8.1), call and be called with every pair, over UDP and TCP, IPv4 and IPv6."""
    core = await lab.core(gm={"lab_algorithms": True}, version=version)
    settings = {"version": version, "transport": transport}
    ue = await lab.ue(**settings, algorithms=[str(pair)], lab_algorithms=True)
    phone = await lab.phone(**settings, ipsec_algorithms=[str(pair)])
    await ue.registered()
    await lab.phone_registered(phone)
    assert ue.client.status.security == f"IPsec {pair}"
    host = ADDRESSES[version][0]
    await call(ue, host)
    await called(ue, phone, lab.network.phone, host)
    (at_work,) = ue.sets
    assert at_work["algorithms"] == str(pair)
    assert at_work["packets_in"] > 5
    assert at_work["packets_out"] > 5
    assert at_work["dropped"] == 0
    at_core = lab.network.core.call(core.security)
    assert [each["stage"] for each in at_core["agreements"]] == ["confirmed", "confirmed"]
    assert not any(at_core["dropped"].values()), at_core["dropped"]
