"""The access network's P-CSCFs from dnsmasq's DHCP server, between two network namespaces [S7-IMS, S7-ACCESS]."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from imskit.ims.io.dhcp_inform import ask_for_sip_servers
from imskit.ims.io.p_cscf_discovery import PCscfDiscovery
from imskit.ims.registration_events import PCscfsFound
from imskit.sip.io.resolver import Resolver
from imskit.sip.wire.flow import Target
from simulators.lab.station import Station, link
from simulators.lab.world import LabError

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("dnsmasq", path="/usr/sbin") is None, reason="dnsmasq is missing"),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Station, Station]]:
    with contextlib.ExitStack() as stack:
        try:
            ue, access = (stack.enter_context(Station(name)) for name in ("ue", "access"))
        except LabError as error:
            pytest.skip(f"needs the right to make network namespaces: {error}")
        link(ue, access, ("ims0", "ue0"))
        ue.command("ip", "address", "add", "10.45.0.2/24", "dev", "ims0")
        access.command("ip", "address", "add", "10.45.0.1/24", "dev", "ue0")
        yield ue, access


@contextlib.asynccontextmanager
async def dnsmasq(*options: str) -> AsyncIterator[None]:
    """Run dnsmasq, as a DHCP server only, on the station whose loop this runs on."""
    process = await asyncio.create_subprocess_exec(
        *(
            "/usr/sbin/dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--pid-file=",
        ),
        *("--interface=ue0", "--bind-interfaces", "--dhcp-range=10.45.0.0,static", "--dhcp-leasefile=/dev/null"),
        *("--log-facility=-", "--log-dhcp", *options),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    while (line := await process.stderr.readline()) and b"DHCP" not in line:
        pass
    try:
        yield
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--dhcp-option-force=option:sip-server,10.45.0.1,10.45.0.9", ("10.45.0.1", "10.45.0.9")),
        ("--dhcp-option-force=option:sip-server,one.example,two.example", ("one.example", "two.example")),
        ("--dhcp-option-force=option:ntp-server,10.45.0.1", ()),
    ],
)
async def test_option_120(hosts: tuple[Station, Station], option: str, expected: tuple[str, ...]) -> None:
    ue, access = hosts
    server = dnsmasq(option)
    await access.run(server.__aenter__())
    try:
        assert await ue.run(ask_for_sip_servers("10.45.0.2", "ims0")) == expected
        assert await ue.run(ask_for_sip_servers("10.45.0.2")) == expected
    finally:
        await access.run(server.__aexit__(None, None, None))


async def test_a_ue_finds_its_p_cscf_that_way(hosts: tuple[Station, Station]) -> None:
    """TS 24.229 clause 9.2.1: where neither configuration nor card nor the home network's DNS names one."""
    ue, access = hosts

    async def find() -> PCscfsFound:
        nobody = Resolver(nameservers=[("10.45.0.1", 5353)], transports=("UDP",), seconds=0.2)
        looking = PCscfDiscovery(
            local=("10.45.0.2", 5060), transport="UDP", domain="ims.example", interface="ims0", resolver=nobody
        )
        return await looking()

    server = dnsmasq("--dhcp-option-force=option:sip-server,10.45.0.1")
    await access.run(server.__aenter__())
    try:
        assert (await ue.run(find())).targets == (Target("UDP", ("10.45.0.1", 5060)),)
    finally:
        await access.run(server.__aexit__(None, None, None))


async def test_nobody_answers(hosts: tuple[Station, Station]) -> None:
    ue, _ = hosts
    assert await ue.run(ask_for_sip_servers("10.45.0.2", "ims0")) == ()
    assert await ue.run(ask_for_sip_servers("10.45.0.77", "ims0")) == (), "an address that it has not"
    assert await ue.run(ask_for_sip_servers("2001:db8::2", "ims0")) == ()
