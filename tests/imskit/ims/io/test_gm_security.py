"""Reservations and sets on loopback sockets, with a back end that only keeps book (TS 33.203 clause 7.1) [S7-IMS]."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import pytest

from imskit.ims.io.gm_security import GmSecurity, listen_at_server_port, ports_of, random_spi
from imskit.ims.registration_events import (
    InstallSecurity,
    ReleaseSecurity,
    RemoveSecurity,
    ReserveSecurity,
    SecurityFailed,
    SecurityInstalled,
    SecurityReserved,
)
from imskit.ims.security_agreement import SecurityAgreement, SecurityPorts
from imskit.ipsec.algorithms import STANDARD_PAIRS
from imskit.ipsec.association import AssociationSet
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.statistics import BackendStatistics
from imskit.secrets import Secret
from imskit.sip.io.transport import Transports
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow, Target

HOST = "127.0.0.1"


class Book:
    """An `IpsecBackend` that lets every packet pass as it is."""

    kind: Literal["kernel", "userspace"] = "userspace"
    device: str | None = None

    def __init__(self) -> None:
        self.sets: dict[str, AssociationSet] = {}
        self.refuse: IpsecError | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def install(self, associations: AssociationSet) -> None:
        await self.go.wait()
        if self.refuse is not None:
            raise self.refuse
        self.sets[associations.name] = associations

    async def remove(self, name: str) -> None:
        self.sets.pop(name, None)

    def statistics(self) -> BackendStatistics:
        return BackendStatistics()

    async def close(self) -> None:
        self.sets.clear()


class Nobody:
    """Takes what the transports receive."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[bytes, Flow]] = asyncio.Queue()

    def received(self, data: bytes, flow: Flow) -> None:
        self.messages.put_nowait((data, flow))

    def malformed(self, head: bytes, error: SipParseError, flow: Flow) -> None:
        raise AssertionError(error)

    def closed(self, flow: Flow, reason: str) -> None:
        pass


class Side:
    def __init__(self, spis: Any = None) -> None:
        self.heard = Nobody()
        self.transports = Transports(self.heard)
        self.book = Book()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        spi = (lambda: next(spis)) if spis is not None else random_spi
        self.security = GmSecurity(self.transports, self.book, HOST, self.answers.put_nowait, spi)

    async def ask(self, request: Any) -> Any:
        self.security.carry_out(request)
        return await asyncio.wait_for(self.answers.get(), 5)

    async def idle(self) -> None:
        """Wait until everything asked for is done: the answer to one more reservation comes last."""
        reserved = await self.ask(ReserveSecurity("probe"))
        assert reserved.reservation == "probe"
        self.security.carry_out(ReleaseSecurity("probe"))


@asynccontextmanager
async def side(spis: Any = None) -> AsyncIterator[Side]:
    made = Side(spis)
    try:
        yield made
    finally:
        await made.security.close()
        await made.transports.close()


def agreement(ours: SecurityPorts, theirs: SecurityPorts) -> SecurityAgreement:
    keys = Secret(bytes(16)), Secret(bytes(range(16)))
    return SecurityAgreement("UDP", HOST, HOST, ours, theirs, STANDARD_PAIRS[0], *keys)


def free(port: int) -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind((HOST, port))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((HOST, port))
        tcp.listen()
        return True
    return False


async def test_reservation_holds_ports_and_spis_and_gives_them_back() -> None:
    async with side() as ue:
        reserved = await ue.ask(ReserveSecurity("one"))
        assert isinstance(reserved, SecurityReserved)
        ports = reserved.ports
        assert ports.spi_c != ports.spi_s
        assert min(ports.spi_c, ports.spi_s) >= 256
        assert ports.port_c != ports.port_s
        assert not free(ports.port_c)
        assert not free(ports.port_s)
        ue.security.carry_out(ReleaseSecurity("one"))
        await ue.idle()
        assert free(ports.port_c)
        assert free(ports.port_s)


async def test_the_server_port_stays_as_long_as_somebody_has_it() -> None:
    """TS 34.229-1 case 8.2: port-s is the same over re-authentications, port-c and SPIs are new."""
    async with side() as ue:
        first = (await ue.ask(ReserveSecurity("first"))).ports
        second = (await ue.ask(ReserveSecurity("second", first.port_s))).ports
        assert second.port_s == first.port_s
        assert second.port_c != first.port_c
        assert len({first.spi_c, first.spi_s, second.spi_c, second.spi_s}) == 4
        ue.security.carry_out(ReleaseSecurity("first"))
        await ue.idle()
        assert free(first.port_c)
        assert not free(first.port_s)
        ue.security.carry_out(ReleaseSecurity("second"))
        await ue.idle()
        assert free(first.port_s)
        # Given back meanwhile: it is bound anew under the same number.
        assert (await ue.ask(ReserveSecurity("third", first.port_s))).ports.port_s == first.port_s


async def test_a_server_port_that_another_program_has_taken() -> None:
    async with side() as ue:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((HOST, 0))
            failed = await ue.ask(ReserveSecurity("one", other.getsockname()[1]))
        assert isinstance(failed, SecurityFailed)
        assert "in use" in failed.reason
        assert isinstance(await ue.ask(ReserveSecurity("two")), SecurityReserved)


async def test_spis_are_not_given_twice() -> None:
    async with side(itertools.chain([300, 300, 301, 300, 301, 302, 303])) as ue:
        first = (await ue.ask(ReserveSecurity("first"))).ports
        second = (await ue.ask(ReserveSecurity("second"))).ports
        assert (first.spi_c, first.spi_s, second.spi_c, second.spi_s) == (300, 301, 302, 303)


async def test_a_set_carries_messages_between_the_four_ports() -> None:
    async with side() as ue, side() as p_cscf:
        ours, theirs = [(await each.ask(ReserveSecurity("gm"))).ports for each in (ue, p_cscf)]
        assert await ue.ask(InstallSecurity("gm", agreement(ours, theirs))) == SecurityInstalled("gm")
        assert await p_cscf.ask(InstallSecurity("gm", agreement(theirs, ours))) == SecurityInstalled("gm")
        ue.transports.send(
            b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n", Target("UDP", (HOST, theirs.port_s)), pytest.fail
        )
        _, flow = await p_cscf.heard.messages.get()
        assert (flow.remote[1], flow.local[1]) == (ours.port_c, theirs.port_s)
        p_cscf.transports.send(
            b"OPTIONS sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\n", Target("TCP", (HOST, ours.port_s)), pytest.fail
        )
        _, flow = await ue.heard.messages.get()
        assert (flow.remote[1], flow.local[1]) == (theirs.port_c, ours.port_s)
        (at_work,) = ue.security.sets()
        assert at_work["algorithms"] == "null/aes-gcm"
        assert "keys" not in repr(at_work)
        ue.security.carry_out(RemoveSecurity("gm"))
        await ue.idle()
        assert not ue.book.sets
        assert not ue.security.sets()
        assert free(ours.port_c)


async def test_ports_of_a_set_are_those_of_its_associations() -> None:
    ours, theirs = SecurityPorts(1001, 1002, 5001, 5002), SecurityPorts(2001, 2002, 6001, 6002)
    ports = ports_of(agreement(ours, theirs).association_set("x"))
    assert (ports.client[1], ports.server[1], ports.peer_client[1], ports.peer_server[1]) == (5001, 5002, 6001, 6002)


@pytest.mark.parametrize(
    "error", [SpiCollision(1001, "another"), IpsecError("no such algorithm", "ENOENT", "Load it.")]
)
async def test_what_the_back_end_refuses(error: IpsecError) -> None:
    """The answer says why, and the reservation can be given back."""
    async with side() as ue:
        ours = (await ue.ask(ReserveSecurity("gm"))).ports
        ue.book.refuse = error
        failed = await ue.ask(InstallSecurity("gm", agreement(ours, SecurityPorts(1, 2, 6001, 6002))))
        assert failed == SecurityFailed("gm", str(error))
        ue.transports.send(b"x", Target("UDP", (HOST, 6002)), lambda reason: None)
        ue.security.carry_out(ReleaseSecurity("gm"))
        await ue.idle()
        assert free(ours.port_c)


async def test_an_agreement_without_its_reservation() -> None:
    async with side() as ue:
        failed = await ue.ask(
            InstallSecurity("gm", agreement(SecurityPorts(1, 2, 5001, 5002), SecurityPorts(3, 4, 6001, 6002)))
        )
        assert isinstance(failed, SecurityFailed)
        assert "was not reserved" in failed.reason
        assert not ue.book.sets


async def test_removal_while_it_is_being_installed() -> None:
    """Requests are done in their order: the set is installed, then taken away."""
    async with side() as ue:
        ours = (await ue.ask(ReserveSecurity("gm"))).ports
        ue.book.go.clear()
        ue.security.carry_out(InstallSecurity("gm", agreement(ours, SecurityPorts(1, 2, 6001, 6002))))
        ue.security.carry_out(RemoveSecurity("gm"))
        ue.security.carry_out(RemoveSecurity("gm"))
        ue.book.go.set()
        assert await asyncio.wait_for(ue.answers.get(), 5) == SecurityInstalled("gm")
        await ue.idle()
        assert not ue.book.sets
        assert free(ours.port_s)


async def test_closing_does_what_is_left() -> None:
    async with side() as ue:
        ours = (await ue.ask(ReserveSecurity("gm"))).ports
        ue.security.carry_out(InstallSecurity("gm", agreement(ours, SecurityPorts(1, 2, 6001, 6002))))
        await ue.security.close()
        assert not ue.book.sets
        assert free(ours.port_c)
        assert free(ours.port_s)


async def test_a_server_port_is_free_for_both() -> None:
    """Where a stream has the number that the datagrams got, another is taken."""
    transports = Transports(Nobody())
    try:
        address = await listen_at_server_port(transports, HOST, 0, None)
        with pytest.raises(OSError):
            await listen_at_server_port(transports, HOST, address[1], None)
    finally:
        await transports.close()
