"""Registration and calls inside security associations, on real sockets between network namespaces [S7-IMS]."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from imskit.ims.io import gm_security
from imskit.ipsec.algorithms import LAB_PAIRS, STANDARD_PAIRS, AlgorithmPair
from simulators.lab.certificates import Authority
from simulators.lab.gm_link import Tap

from .conftest import ADDRESSES, at, call, called

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


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
async def test_over_tls(lab: Any, tmp_path: Path, version: int) -> None:
    """TS 33.203 annex X: AKAv2-SHA-256 over TLS, calls on the UE's connection; a wrong certificate is refused."""
    _, near, far, _ = ADDRESSES[version]
    authority = Authority.create("Lab operator", tmp_path / "ca")
    certificate, key = authority.server("p-cscf.ims.example", near, far)
    await lab.core(version=version, tls=[at(near, 5061), at(far, 5061)], certificate=certificate, key=key)
    ue = await lab.ue(version=version, security="tls", p_cscf=[at(near, 5061)], trust=authority.root)
    phone = await lab.phone(version=version, security="tls", p_cscf=at(far, 5061), trust=authority.root)
    await ue.registered()
    await lab.phone_registered(phone)
    assert ue.client.status.security == "TLS"
    host = ADDRESSES[version][0]
    await call(ue, host)
    await called(ue, phone, lab.network.phone, host)
    await ue.stop()
    stranger = Authority.create("Somebody", tmp_path / "other")
    doubting = await lab.ue(version=version, security="tls", p_cscf=[at(near, 5061)], trust=stranger.root, port=5080)
    await doubting.says("cannot be reached")
    assert not any("registered for" in reason for reason in doubting.reasons)


async def test_bound_to_the_interface_with_its_dscp(lab: Any) -> None:
    """[S7-ACCESS] Gm goes by the interface named and with the DSCP configured, which ESP repeats outside."""
    await lab.core()
    tap = lab.network.ue.call(lambda: Tap("ims0"))
    try:
        ue = await lab.ue(interface="ims0", dscp_signalling=26)
        phone = await lab.phone(interface="ims0")
        await ue.registered()
        await lab.phone_registered(phone)
        await call(ue, ADDRESSES[4][0])
        packets = [packet for packet in tap.take(sent=True) if packet[0] >> 4 == 4]
    finally:
        tap.close()
    esp = [packet for packet in packets if packet[9] == 50]
    assert len(esp) > 5
    assert {packet[1] >> 2 for packet in esp} == {26}
    assert {packet[1] >> 2 for packet in packets if b"REGISTER sip:" in packet} == {26}
    lost = await lab.ue(interface="nowhere0", port=5090)
    await lost.until(lambda: "nowhere0" in lost.client.card_state)


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_tshark_reads_it_all(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str, version: int
) -> None:
    """Wireshark opens the ESP with the keys of the agreement, finds SIP inside, and nothing malformed."""
    keys: list[Any] = []
    real = gm_security.Associations.install

    async def install(self: Any, associations: Any) -> None:
        keys.append(associations)
        await real(self, associations)

    monkeypatch.setattr(gm_security.Associations, "install", install)
    pair = "hmac-sha-1-96/aes-cbc"
    await lab.core(version=version)
    tap = lab.network.ue.call(lambda: Tap("ims0"))
    try:
        settings = {"version": version, "transport": transport}
        ue = await lab.ue(**settings, algorithms=[pair])
        phone = await lab.phone(**settings)
        await ue.registered()
        await lab.phone_registered(phone)
        await call(ue, ADDRESSES[version][0])
        await called(ue, phone, lab.network.phone, ADDRESSES[version][0])
        packets = tap.take()
    finally:
        tap.close()
    capture = tmp_path / "gm.pcap"
    with capture.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))  # LINKTYPE_RAW
        for packet in packets:
            file.write(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)
    rows = [
        f'uat:esp_sa:"IPv{version}","*","*","0x{association.spi:08x}","AES-CBC [RFC3602]",'
        f'"0x{association.keys.encryption.reveal().hex()}","HMAC-SHA-1-96 [RFC2404]",'
        f'"0x{association.keys.integrity.reveal().hex()}","32-bit"'
        for associations in keys
        if str(associations.inbound[0].pair) == pair
        for association in associations.inbound
    ]
    options = ["esp.enable_encryption_decode:TRUE", "esp.enable_authentication_check:TRUE", *rows]
    argv = ["tshark", "-r", str(capture), *(word for option in options for word in ("-o", option))]
    fields = ["-T", "fields", "-e", "ip.proto", "-e", "esp.icv_good", "-e", "sip.Method", "-e", "sip.Status-Code"]
    read = await asyncio.to_thread(subprocess.run, [*argv, *fields], capture_output=True, text=True, check=True)
    assert "REGISTER" in read.stdout
    inside = [line.split("\t") for line in read.stdout.splitlines()]
    protected = [line for line in inside if line[1]]
    assert len(protected) > 20
    assert all(line[1] in ("1", "True") for line in protected), "every integrity value is good"
    words = {word for line in protected for word in line[2:] if word}
    assert {"REGISTER", "SUBSCRIBE", "NOTIFY", "INVITE", "PRACK", "BYE", "200"} <= words, words
    query = [*argv, "-Y", "_ws.malformed || _ws.expert.severity == error"]
    bad = await asyncio.to_thread(subprocess.run, query, capture_output=True, text=True, check=True)
    assert bad.stdout == ""
