"""Protected ports: who is heard there, and what leaves from where (TS 33.203 clause 7.1) [S7-IMS]."""

import asyncio
import socket
from dataclasses import dataclass, replace

import pytest

from imskit.sip.io.transport import TransportError, Transports
from imskit.sip.wire.flow import Address, ProtectedPorts, Target

MESSAGE = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Side:
    transports: Transports
    heard: object
    client: Address
    server: Address


async def _side(make_side, host: str = "127.0.0.1") -> Side:
    transports, heard = make_side()
    client = await transports.listen_protected("UDP", (host, 0), None)
    server = await transports.listen_protected("UDP", (host, 0), None)
    await transports.listen_protected("TCP", server, None)
    return Side(transports, heard, client, server)


def _joined(one: Side, other: Side) -> ProtectedPorts:
    ports = ProtectedPorts(one.client, one.server, other.client, other.server)
    one.transports.join(ports)
    return ports


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_requests_and_responses_over_udp_leave_the_client_port(make_side, host: str) -> None:
    ue, p_cscf = await _side(make_side, host), await _side(make_side, host)
    _joined(ue, p_cscf)
    _joined(p_cscf, ue)
    ue.transports.send(MESSAGE, Target("UDP", p_cscf.server, source=host, source_port=ue.client[1]), pytest.fail)
    _, flow = await p_cscf.heard.messages.get()
    assert (flow.remote, flow.local) == (ue.client, p_cscf.server)
    # Section 18.2.2 of RFC 3261: the response goes to the port of the Via, the UE's protected server port.
    p_cscf.transports.send(b"response", replace(flow, remote=ue.server), pytest.fail)
    data, back = await ue.heard.messages.get()
    assert data == b"response"
    assert (back.remote, back.local) == (p_cscf.client, ue.server)


async def test_target_without_a_source_leaves_by_the_newest_agreement(make_side) -> None:
    ue, p_cscf = await _side(make_side), await _side(make_side)
    _joined(ue, p_cscf)
    _joined(p_cscf, ue)
    newer = replace(ue, client=await ue.transports.listen_protected("UDP", ("127.0.0.1", 0), None))
    newest = _joined(newer, p_cscf)
    p_cscf.transports.join(ProtectedPorts(p_cscf.client, p_cscf.server, newer.client, newer.server))
    ue.transports.send(MESSAGE, Target("UDP", p_cscf.server), pytest.fail)
    assert (await p_cscf.heard.messages.get())[1].remote == newer.client
    await ue.transports.part(newest)
    ue.transports.send(MESSAGE, Target("UDP", p_cscf.server), pytest.fail)
    assert (await p_cscf.heard.messages.get())[1].remote == ue.client


async def test_tcp_comes_from_the_client_port_and_is_answered_on_the_same_connection(make_side) -> None:
    ue, p_cscf = await _side(make_side), await _side(make_side)
    _joined(ue, p_cscf)
    _joined(p_cscf, ue)
    ue.transports.send(MESSAGE, Target("TCP", p_cscf.server), pytest.fail)
    _, flow = await p_cscf.heard.messages.get()
    assert (flow.transport, flow.remote, flow.local) == ("TCP", ue.client, p_cscf.server)
    p_cscf.transports.send(MESSAGE, flow, pytest.fail)
    assert (await ue.heard.messages.get())[1].local == ue.client
    # The network's own connection: from its client port to the UE's server port.
    p_cscf.transports.send(MESSAGE, Target("TCP", ue.server), pytest.fail)
    _, own = await ue.heard.messages.get()
    assert (own.remote, own.local) == (p_cscf.client, ue.server)


async def test_nobody_else_is_heard_at_a_protected_port(make_side) -> None:
    """Fault: a clear-text request to a protected port, over UDP and over TCP."""
    ue, p_cscf = await _side(make_side), await _side(make_side)
    _joined(ue, p_cscf)
    _joined(p_cscf, ue)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(MESSAGE, p_cscf.server)
        stranger.sendto(MESSAGE, p_cscf.client)
    with socket.socket() as stranger:
        stranger.setblocking(False)
        await loop.sock_connect(stranger, p_cscf.server)
        with pytest.raises(ConnectionResetError):
            # The connection is cut without an answer.
            await loop.sock_sendall(stranger, MESSAGE)
            assert await loop.sock_recv(stranger, 10) != b""
            raise AssertionError("it was answered")
    ue.transports.send(b"SIP/2.0 200 first heard\r\n\r\n", Target("UDP", p_cscf.server), pytest.fail)
    assert (await p_cscf.heard.messages.get())[0].startswith(b"SIP/2.0 200 first heard")


async def test_end_of_an_agreement_closes_its_connections_and_nothing_leaves_in_clear(make_side) -> None:
    ue, p_cscf = await _side(make_side), await _side(make_side)
    _joined(ue, p_cscf)
    ports = _joined(p_cscf, ue)
    ue.transports.send(MESSAGE, Target("TCP", p_cscf.server), pytest.fail)
    _, stream = await p_cscf.heard.messages.get()
    ue.transports.send(MESSAGE, Target("UDP", p_cscf.server), pytest.fail)
    _, datagrams = await p_cscf.heard.messages.get()
    await p_cscf.transports.part(ports)
    assert (await p_cscf.heard.ends.get()) == (stream, "its security agreement is over")
    failures: list[str] = []
    p_cscf.transports.send(b"response", replace(datagrams, remote=ue.server), failures.append)
    assert failures == ["the security agreement of this flow is over"]
    await p_cscf.transports.listen("UDP", ("127.0.0.1", 0))
    with pytest.raises(TransportError, match="the security agreement with that port is over"):
        await p_cscf.transports.open(Target("UDP", ue.server))


async def test_ports_are_free_again_once_closed(make_side) -> None:
    side = await _side(make_side)
    await side.transports.stop_protected(side.client)
    await side.transports.stop_protected(side.server)
    again, _ = make_side()
    assert await again.listen_protected("UDP", side.server, None) == side.server
    assert await again.listen_protected("TCP", side.server, None) == side.server
    failures: list[str] = []
    side.transports.send(MESSAGE, Target("UDP", ("127.0.0.1", 9), source="127.0.0.1", source_port=5), failures.append)
    assert failures == ["no UDP socket is bound to 127.0.0.1 port 5"]


async def test_interface_and_dscp(make_side) -> None:
    """Binding Gm to the IMS interface, and DSCP; no such interface is an error with its name."""
    from imskit.sip.io.sockets import Binding, bound_socket

    with bound_socket(socket.SOCK_DGRAM, ("127.0.0.1", 0), Binding("lo", 40)) as made:
        assert made.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 40 << 2
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
    with bound_socket(socket.SOCK_STREAM, ("::1", 0), Binding("lo", 46)) as made:
        assert made.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 46 << 2
    transports, _ = make_side()
    with pytest.raises(OSError, match="interface nowhere0"):
        await transports.listen_protected("UDP", ("127.0.0.1", 0), "nowhere0")
