"""Faults of Gm with IPsec, on real sockets: no hang, associations cleaned, a clear status, recovery [S7-IMS]."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imskit.ims import events as ims
from imskit.ims.io import gm_security
from imskit.ims.security_agreement import SecurityAgreement, SecurityPorts
from imskit.ipsec.algorithms import STANDARD_PAIRS
from imskit.secrets import Secret
from simulators.ims_core.engine import registrar
from simulators.ims_core.engine.security_agreements import SecurityAgreements
from simulators.lab.gm_link import Tap
from simulators.lab.station import Station, link

from .conftest import ADDRESSES, DOMAIN, OPC, QUICK, K, call, called, offer, phone_is

pytestmark = pytest.mark.slow

HOST = ADDRESSES[4][0]
ESP = 50


def esp(packets: list[bytes]) -> list[bytes]:
    return [packet for packet in packets if packet[0] >> 4 == 4 and packet[9] == ESP]


async def until(station: Station, condition: Any, within: float = 10.0) -> None:
    await phone_is(station, condition) if within == 20 else await station.run(_until(condition, within))


async def _until(condition: Any, within: float) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # counters tell nobody that they have changed
            await asyncio.sleep(0.01)


def dropped(lab: Any, core: Any) -> dict[str, int]:
    found: dict[str, int] = lab.network.core.call(core.security)["dropped"]
    return found


async def test_p_cscf_restarts_and_forgets_the_associations(lab: Any) -> None:
    """What the UE sends inside them meets silence: it registers anew, in clear, and has one set again."""
    core = await lab.core()
    ue = await lab.ue(timers=QUICK)
    await ue.registered()
    (before,) = ue.sets
    await lab.network.core.run(core.close())
    fresh = await lab.core()
    ue.handle(ims.Dial("lost", "tel:+15550200", offer(HOST)))
    await ue.until(lambda: ue.of(ims.Ended))
    ue.outputs.clear()
    await ue.says("registering again: the P-CSCF does not answer")
    await ue.registered()
    phone = await lab.phone()
    await lab.phone_registered(phone)
    await call(ue, HOST)
    await until(lab.network.ue, lambda: len(ue.client.security()["sets"]) == 1, 30)
    assert ue.sets != [before]
    stages = [each["stage"] for each in lab.network.core.call(fresh.security)["agreements"]]
    # The core that was started anew has forgotten the card's sequence number too: one challenge was for that.
    assert stages.count("confirmed") == 2


async def test_spi_that_is_in_use(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPI collision: another set of the machine has it; the UE begins anew with others."""
    await lab.core()
    numbers = itertools.chain([4242, 4243], itertools.count(5000))
    real_install = gm_security.Associations.install
    taken: list[str] = []

    async def install(self: Any, associations: Any) -> None:
        if not taken and associations.inbound[0].spi == 4242:
            taken.append(associations.name)
            other = SecurityAgreement(
                "UDP",
                HOST,
                ADDRESSES[4][1],
                SecurityPorts(4242, 4299, 41000, 41001),
                SecurityPorts(77, 78, 6, 7),
                STANDARD_PAIRS[0],
                Secret(bytes(16)),
                Secret(bytes(16)),
            )
            await self.backend.install(other.association_set("another program"))
        await real_install(self, associations)

    monkeypatch.setattr(gm_security.Associations, "install", install)
    monkeypatch.setattr(gm_security, "random_spi", lambda: next(numbers))
    monkeypatch.setattr(gm_security.GmSecurity.__init__, "__defaults__", (lambda: next(numbers),))
    ue = await lab.ue()
    await ue.says("SPI 4242 is in use already")
    await ue.registered()
    assert taken
    assert len(ue.sets) == 1


async def test_wrong_security_verify(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The P-CSCF answers 494; the UE gives the set up, says why, and tries again later with success."""
    real, wrong = SecurityAgreements._verified, [True]

    def verified(self: Any, request: Any, agreement: Any) -> bool:
        return False if wrong and wrong.pop() else bool(real(self, request, agreement))

    monkeypatch.setattr(SecurityAgreements, "_verified", verified)
    core = await lab.core()
    ue = await lab.ue()
    await ue.says("494")
    await ue.registered()
    assert len(ue.sets) == 1
    await until(lab.network.core, lambda: len(core.security()["agreements"]) == 1, 15)


async def test_replayed_and_corrupted_esp(lab: Any) -> None:
    """Packets from the wire, sent again as they were and with one bit changed: dropped, counted, of no effect."""
    core = await lab.core()
    ue = await lab.ue()
    phone = await lab.phone()
    tap = lab.network.ue.call(lambda: Tap("ims0"))
    try:
        await ue.registered()
        await lab.phone_registered(phone)
        await call(ue, HOST)
        packets = esp(tap.take(sent=True))
        assert len(packets) > 5
        mac = lab.network.core.command("ip", "-o", "link", "show", "ue0").split("link/ether ")[1].split()[0]
        tap.inject(packets[-1], mac)
        changed = bytearray(packets[-1])
        changed[24:28] = (int.from_bytes(changed[24:28]) + 10).to_bytes(4)  # a sequence number that is yet to come
        tap.inject(bytes(changed), mac)
        await until(
            lab.network.core, lambda: all(core.security()["dropped"][key] == 1 for key in ("replayed", "bad_integrity"))
        )
        await call(ue, HOST)
    finally:
        tap.close()


async def test_nothing_in_clear_inside_an_agreement(lab: Any) -> None:
    """After REGISTER 1 and its 401 every packet of Gm is ESP, calls included: seen on the wire."""
    await lab.core()
    tap = lab.network.ue.call(lambda: Tap("ims0"))
    try:
        ue = await lab.ue()
        phone = await lab.phone()
        await ue.registered()
        await lab.phone_registered(phone)
        await call(ue, HOST)
        await called(ue, phone, lab.network.phone, HOST)
        packets = tap.take()
    finally:
        tap.close()
    clear = [re.search(rb"(REGISTER|INVITE|SUBSCRIBE|NOTIFY|BYE) sip|SIP/2.0 \d+", packet) for packet in packets]
    assert [found[0] for found in clear if found] == [b"REGISTER sip", b"SIP/2.0 401"]
    assert len(esp(packets)) > 20


async def test_clear_request_to_a_protected_port(lab: Any) -> None:
    """Over UDP and TCP, from the UE's own address: no answer, no effect."""
    core = await lab.core()
    ue = await lab.ue()
    phone = await lab.phone()
    await ue.registered()
    await lab.phone_registered(phone)
    agreement = lab.network.core.call(core.security)["agreements"][0]
    _, server, _, of_ue = agreement["ports"]
    request = (
        f"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {HOST}:9999;branch=z9hG4bKx;rport\r\nFrom: <sip:a@b>;tag=1\r\n"
        "To: <sip:x>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()

    def socket_on(station: Station, kind: socket.SocketKind) -> socket.socket:
        made = station.call(lambda: socket.socket(socket.AF_INET, kind))
        made.settimeout(0.5)
        return made

    for station, target in ((lab.network.ue, (ADDRESSES[4][1], server)), (lab.network.core, (HOST, of_ue))):
        with socket_on(station, socket.SOCK_DGRAM) as datagrams:
            datagrams.sendto(request, target)
            with pytest.raises((TimeoutError, ConnectionRefusedError)):
                datagrams.recv(1000)
        with socket_on(station, socket.SOCK_STREAM) as stream, pytest.raises(OSError):
            stream.connect(target)
            stream.send(request)
            assert stream.recv(1000)
    await call(ue, HOST)


@pytest.mark.parametrize(("version", "mtu"), [(4, 600), (6, 1280)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
async def test_mtu_too_small(lab: Any, version: int, mtu: int, transport: str) -> None:
    """Requests above 1300 bytes over UDP go by TCP, ESP is fragmented, segments fit: it works all the same."""
    network = lab.network
    network.configure(mtu)
    try:
        await lab.core(version=version)
        ue = await lab.ue(version=version, transport=transport)
        phone = await lab.phone(version=version, transport=transport)
        await ue.registered()
        await lab.phone_registered(phone)
        await call(ue, ADDRESSES[version][0])
        await called(ue, phone, network.phone, ADDRESSES[version][0])
    finally:
        network.configure()


async def test_re_authentication_overlaps(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TS 34.229-1 case 8.2: a new set beside the old, port-s stays; calls go on meanwhile; the old one goes."""
    monkeypatch.setattr(registrar, "MAXIMUM_EXPIRES", 4)
    monkeypatch.setattr(registrar, "MINIMUM_EXPIRES", 1)
    await lab.core()
    ue = await lab.ue(timers=QUICK)
    phone = await lab.phone()
    await ue.registered()
    await lab.phone_registered(phone)
    first = {each["ports"] for each in ue.sets}
    ue.handle(ims.Dial("long", "tel:+15550200", offer(HOST)))
    await ue.until(lambda: ue.of(ims.Answered))
    await until(lab.network.ue, lambda: not first & {each["ports"] for each in ue.client.security()["sets"]}, 20)
    second = {each["ports"] for each in ue.sets}
    servers = {ports.split(">")[-1] for ports in first | second}
    assert len(servers) == 1, "port-s stays"
    assert not ue.of(ims.Ended)
    ue.handle(ims.Hangup("long"))
    await ue.until(lambda: ue.of(ims.Ended))
    assert ue.of(ims.Ended)[0].local


async def test_two_agents_on_one_card(lab: Any) -> None:
    """Each has its own set; the end of one leaves the other as it is."""
    core = await lab.core()
    one = await lab.ue()
    other = await lab.ue(port=5070)
    phone = await lab.phone()
    await one.registered()
    await other.registered()
    await lab.phone_registered(phone)
    await call(one, HOST)
    await call(other, HOST)
    await other.stop()
    await call(one, HOST)
    assert len(one.sets) == 1
    taken = await lab.ue(port=5060)
    await taken.until(lambda: "cannot be used at 10.45.0.2 port 5060" in taken.client.card_state)
    assert len(lab.network.core.call(core.registrations)) == 2


async def test_switching_off_takes_everything_away(lab: Any) -> None:
    await lab.core()
    ue = await lab.ue()
    await ue.registered()
    assert "gm" in lab.network.ue.command("ip", "-o", "link")
    await ue.stop()
    assert "gm" not in lab.network.ue.command("ip", "-o", "link")
    assert "gm" not in lab.network.ue.command("ip", "rule")


async def test_killed_with_its_associations(lab: Any, tmp_path: Path) -> None:
    """kill -9: the next start finds nothing in its way, registers anew, and the core has one registration."""
    core = await lab.core()
    config = tmp_path / "phone.toml"
    config.touch(0o600)
    config.write_text(
        f"""
impi = "001010000000000200@{DOMAIN}"
impus = ["sip:+15550200@{DOMAIN}", "tel:+15550200"]
domain = "{DOMAIN}"
k = "{K}"
opc = "{OPC}"
address = "{ADDRESSES[4][3]}"
p_cscf = "{ADDRESSES[4][2]}:5060"
security = "ipsec"
backend = "userspace"
"""
    )
    argv = [sys.executable, "-m", "imsbridge", "sim", "phone", "run", "-c", str(config)]

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        async with asyncio.timeout(30):
            while b"registered for" not in (line := await process.stderr.readline()):
                assert line, "the phone ended"
        return process

    async def kill(process: asyncio.subprocess.Process) -> None:
        process.kill()
        await process.communicate()

    phone = lab.network.phone
    first = await phone.run(start())
    await phone.run(kill(first))
    second = await phone.run(start())
    await until(lab.network.core, lambda: len(core.registrations()[0]["contacts"]) == 1)
    second.send_signal(signal.SIGTERM)
    await phone.run(second.communicate())
    assert "gm" not in phone.command("ip", "-o", "link")
    assert not phone.command("ip", "rule").count("gm")


@pytest.fixture
def private(network: Any) -> Iterator[Station]:
    """A host behind the UE's, which forwards."""
    with Station("private") as private:
        link(private, network.ue, ("ims0", "inside"))
        private.command("ip", "address", "add", "192.168.7.2/24", "dev", "ims0")
        network.ue.command("ip", "address", "add", "192.168.7.1/24", "dev", "inside")
        private.command("ip", "route", "add", "default", "via", "192.168.7.1")
        network.ue.command("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        yield private


@pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed")
async def test_nat_and_its_rebinding(private: Station, lab: Any) -> None:
    """Annex M: behind a NAT the agreement is a tunnel inside UDP, and a new binding of the NAT is learned."""
    core = await lab.core()
    nat = lab.network.ue

    def masquerade(first: int) -> None:
        # In one transaction: a packet that goes out between two would be remembered as not translated.
        chain = "add chain ip nat out { type nat hook postrouting priority 100 ; }"
        rule = f"add rule ip nat out oifname ims0 meta l4proto udp masquerade to :{first}-{first + 99}"
        nat.command("nft", f"add table ip nat; delete table ip nat; add table ip nat; {chain} ; {rule}")

    masquerade(31000)
    try:
        ue = await lab.ue(private, address="192.168.7.2", nat=True)
        phone = await lab.phone()
        await ue.registered()
        await lab.phone_registered(phone)
        assert ue.sets[0]["mode"] == "UDP-enc-tun"
        await call(ue, "192.168.7.2")
        await called(ue, phone, lab.network.phone, "192.168.7.2")
        # Down and up makes the kernel forget what it had translated.
        nat.command("ip", "link", "set", "ims0", "down")
        nat.command("ip", "link", "set", "ims0", "up")
        lab.network.configure()
        masquerade(32000)
        await call(ue, "192.168.7.2")
        await called(ue, phone, lab.network.phone, "192.168.7.2")
        modes = {each["mode"] for each in lab.network.core.call(core.security)["agreements"]}
        assert modes == {"UDP-enc-tun", "trans"}
        await ue.stop()
    finally:
        nat.command("nft", "delete table ip nat")
