"""NETLINK_XFRM: the messages that put IPsec states and policies into the Linux kernel, and what it answers.

Pure encoding and decoding of ``linux/xfrm.h`` and ``linux/netlink.h`` in this machine's byte order; addresses, ports
and SPIs are in network order as everywhere.  A request that carries keys is a ``Secret``: they go through a socket and
never through a command line.  No state asks for hardware offload.  The layout is that of machines which align 64-bit
numbers to 8 bytes: all but 32-bit x86.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from imskit.ipsec.errors import IpsecError
from imskit.secrets import Secret

ESP = 50
"""IP protocol number of ESP."""
ANY_PROTOCOL = 0
MAX_DATAGRAM_BYTES = 1 << 20
"""Longest answer that is read: the kernel fills at most 32 KiB at a time."""

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x001
_NLM_F_ACK = 0x004
_NLM_F_EXCL = 0x200
_NLM_F_CREATE = 0x400
_NLM_F_DUMP = 0x300
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1

_NEWSA, _DELSA, _GETSA = 0x10, 0x11, 0x12
_NEWPOLICY, _DELPOLICY, _GETPOLICY = 0x13, 0x14, 0x15
_UPDSA = 0x1A
_MAPPING = 0x26
MAPPING_GROUP = 8
"""Multicast group of the reports that a peer's NAT has given it another address or port (XFRMNLGRP_MAPPING)."""

_A_ALG_CRYPT, _A_ENCAP, _A_TMPL = 2, 4, 5
_A_ALG_AEAD, _A_ALG_AUTH_TRUNC, _A_REPLAY_ESN = 18, 20, 23
_UDP_ENCAP_ESPINUDP = 2

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
# struct xfrm_selector: addresses, ports and their masks, family, prefix lengths, protocol, interface, user
_SELECTOR = struct.Struct("=16s16s2s2s2s2sHBBB3xiI")
_ID = struct.Struct("=16s4sB3x")
_CURRENT = struct.Struct("=4Q")
_STATISTICS = struct.Struct("=III")
_STATE_TAIL = struct.Struct("=IIHBBB7x")
_STATE_LENGTH = 224
_STATE_ID = struct.Struct("=16s4sHBx")
_POLICY_TAIL = struct.Struct("=IIBBBB4x")
_POLICY_LENGTH = 168
_POLICY_ID_TAIL = struct.Struct("=IB3x")
_TEMPLATE = struct.Struct("=16s4sB3xH2x16sIBBBxIII")
_ENCAPSULATION = struct.Struct("=H2s2s2x16s")
_ALGORITHM_NAME = 64
_MAPPING_BODY = struct.Struct("=16s4sHBxI16s16s2s2s")
_NO_LIFETIME = struct.pack("=8Q", *(2**64 - 1,) * 4, 0, 0, 0, 0)
_ALL_ALGORITHMS = 2**32 - 1
_AF_INET, _AF_INET6 = 2, 10
_NO_PORT, _ONE_PORT = b"\0\0", b"\xff\xff"


class Direction(IntEnum):
    """Which packets a policy is for (XFRM_POLICY_*)."""

    IN = 0
    OUT = 1
    FORWARD = 2


class Mode(IntEnum):
    """XFRM_MODE_*."""

    TRANSPORT = 0
    TUNNEL = 1


@dataclass(frozen=True)
class Selector:
    """The packets meant: one source and one destination address, or any (``None``); ports likewise.

    ``protocol`` is the IP protocol number, ``ANY_PROTOCOL`` for all.
    """

    source: str | None
    destination: str | None
    source_port: int | None = None
    destination_port: int | None = None
    protocol: int = ANY_PROTOCOL

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6, from whichever address is given."""
        address = self.source or self.destination
        if address is None:
            raise _bad("a selector without addresses")
        return _family(address)


@dataclass(frozen=True)
class Cipher:
    """An algorithm as the kernel names it, e.g. ``cbc(aes)``, with its key."""

    name: str
    key: Secret[bytes]
    icv_bits: int = 0
    """Length of the integrity value: of an authentication or combined algorithm; 0 for a plain cipher."""


@dataclass(frozen=True)
class Encapsulation:
    """ESP in UDP (RFC 3948): the ports of the outer packet."""

    source_port: int
    destination_port: int


@dataclass(frozen=True)
class State:
    """One SA as it is put into the kernel.

    Either ``combined``, or ``authentication`` and ``encryption``.  ``source`` and ``destination`` are the outer
    addresses.  A state has no lifetime of its own.
    """

    source: str
    destination: str
    spi: int
    reqid: int
    selector: Selector
    mode: Mode = Mode.TRANSPORT
    combined: Cipher | None = None
    authentication: Cipher | None = None
    encryption: Cipher | None = None
    encapsulation: Encapsulation | None = None
    replay_window: int = 64


@dataclass(frozen=True)
class Template:
    """What a policy asks of a packet: ESP between these (outer) addresses, by a state with this ``reqid``."""

    source: str
    destination: str
    reqid: int
    mode: Mode = Mode.TRANSPORT


@dataclass(frozen=True)
class Policy:
    """One policy: packets of ``selector`` are protected as ``template`` says, or (``block``) dropped.

    A blocking policy's template does nothing but carry the ``reqid`` that tells whose it is.
    """

    selector: Selector
    direction: Direction
    priority: int
    template: Template
    block: bool = False


@dataclass(frozen=True)
class Acknowledgement:
    """The answer to a request: ``errno`` 0 for done; ``text`` is the kernel's own explanation, if any."""

    sequence: int
    errno: int
    text: str = ""


@dataclass(frozen=True)
class EndOfDump:
    """No more reports follow for the dump ``sequence``; ``errno`` 0 if it is complete."""

    sequence: int
    errno: int = 0


@dataclass(frozen=True)
class StateReport:
    """A state in the kernel, with its counters."""

    sequence: int
    source: str
    destination: str
    spi: int
    protocol: int
    reqid: int
    mode: int
    packets: int
    bytes: int
    replayed: int
    bad_integrity: int
    outside_window: int


@dataclass(frozen=True)
class PolicyReport:
    """A policy in the kernel."""

    sequence: int
    selector: Selector
    direction: int
    priority: int
    block: bool
    reqids: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class MappingReport:
    """A peer's packets come from another address or port than the state says: its NAT has rebound."""

    destination: str
    spi: int
    reqid: int
    old_source: str
    old_port: int
    new_source: str
    new_port: int


Report = Acknowledgement | EndOfDump | StateReport | PolicyReport | MappingReport


# --- requests ---------------------------------------------------------------------------------------------


def add_state(state: State, sequence: int) -> Secret[bytes]:
    """XFRM_MSG_NEWSA; the kernel answers EEXIST if destination, protocol and SPI are taken."""
    return Secret(_request(_NEWSA, _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL, sequence, _state(state)))


def update_state(state: State, sequence: int) -> Secret[bytes]:
    """XFRM_MSG_UPDSA: the encapsulation ports of a state that is there."""
    return Secret(_request(_UPDSA, _NLM_F_ACK, sequence, _state(state)))


def delete_state(destination: str, spi: int, sequence: int) -> bytes:
    """XFRM_MSG_DELSA."""
    return _request(_DELSA, _NLM_F_ACK, sequence, _state_id(destination, spi))


def get_state(destination: str, spi: int, sequence: int) -> bytes:
    """XFRM_MSG_GETSA for one state: a ``StateReport`` or an ``Acknowledgement`` with ESRCH."""
    return _request(_GETSA, 0, sequence, _state_id(destination, spi))


def dump_states(sequence: int) -> bytes:
    """XFRM_MSG_GETSA for all: ``StateReport``s and ``EndOfDump``."""
    return _request(_GETSA, _NLM_F_DUMP, sequence, bytes(_STATE_ID.size))


def add_policy(policy: Policy, sequence: int) -> bytes:
    """XFRM_MSG_NEWPOLICY; the kernel answers EEXIST if one with this selector, direction and priority is there."""
    return _request(_NEWPOLICY, _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL, sequence, _policy(policy))


def delete_policy(selector: Selector, direction: int, sequence: int) -> bytes:
    """XFRM_MSG_DELPOLICY: the one with exactly this selector."""
    body = _selector(selector) + _POLICY_ID_TAIL.pack(0, direction)
    return _request(_DELPOLICY, _NLM_F_ACK, sequence, body)


def dump_policies(sequence: int) -> bytes:
    """XFRM_MSG_GETPOLICY for all: ``PolicyReport``s and ``EndOfDump``."""
    return _request(_GETPOLICY, _NLM_F_DUMP, sequence, bytes(64))


def _request(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, sequence, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _state(state: State) -> bytes:
    body = b"".join(
        (
            _selector(state.selector),
            _ID.pack(_address(state.destination), _spi(state.spi), ESP),
            _address(state.source),
            _NO_LIFETIME,
            bytes(_CURRENT.size + _STATISTICS.size),
            # The window of the old header is 32 packets at most: it travels as an attribute instead.
            _STATE_TAIL.pack(0, state.reqid, _family(state.destination), state.mode, 0, 0),
        )
    )
    attributes = []
    if state.combined is not None:
        attributes.append(_attribute(_A_ALG_AEAD, _algorithm(state.combined, with_icv=True)))
    if state.authentication is not None:
        attributes.append(_attribute(_A_ALG_AUTH_TRUNC, _algorithm(state.authentication, with_icv=True)))
    if state.encryption is not None:
        attributes.append(_attribute(_A_ALG_CRYPT, _algorithm(state.encryption, with_icv=False)))
    if state.encapsulation is not None:
        ports = state.encapsulation.source_port, state.encapsulation.destination_port
        packed = (port.to_bytes(2) for port in ports)
        attributes.append(_attribute(_A_ENCAP, _ENCAPSULATION.pack(_UDP_ENCAP_ESPINUDP, *packed, bytes(16))))
    if state.replay_window:
        words = (state.replay_window + 31) // 32
        window = struct.pack("=6I", words, 0, 0, 0, 0, state.replay_window) + bytes(4 * words)
        attributes.append(_attribute(_A_REPLAY_ESN, window))
    return body + b"".join(attributes)


def _policy(policy: Policy) -> bytes:
    template = policy.template
    packed = _TEMPLATE.pack(
        _address(template.destination),
        bytes(4),
        ESP,
        _family(template.destination),
        _address(template.source),
        template.reqid,
        template.mode,
        0,
        0,
        _ALL_ALGORITHMS,
        _ALL_ALGORITHMS,
        _ALL_ALGORITHMS,
    )
    body = b"".join(
        (
            _selector(policy.selector),
            _NO_LIFETIME,
            bytes(_CURRENT.size),
            _POLICY_TAIL.pack(policy.priority, 0, policy.direction, 1 if policy.block else 0, 0, 0),
        )
    )
    return body + _attribute(_A_TMPL, packed)


def _algorithm(cipher: Cipher, *, with_icv: bool) -> bytes:
    key = cipher.key.reveal()
    head = cipher.name.encode("ascii").ljust(_ALGORITHM_NAME, b"\0") + struct.pack("=I", len(key) * 8)
    return head + (struct.pack("=I", cipher.icv_bits) if with_icv else b"") + key


def _selector(selector: Selector) -> bytes:
    def port(number: int | None) -> tuple[bytes, bytes]:
        return (_NO_PORT, _NO_PORT) if number is None else (number.to_bytes(2), _ONE_PORT)

    def prefix(address: str | None) -> int:
        return 0 if address is None else ipaddress.ip_address(address).max_prefixlen

    return _SELECTOR.pack(
        _address(selector.destination),
        _address(selector.source),
        *port(selector.destination_port),
        *port(selector.source_port),
        selector.family,
        prefix(selector.destination),
        prefix(selector.source),
        selector.protocol,
        0,
        0,
    )


def _state_id(destination: str, spi: int) -> bytes:
    return _STATE_ID.pack(_address(destination), _spi(spi), _family(destination), ESP)


def _address(address: str | None) -> bytes:
    return bytes(16) if address is None else ipaddress.ip_address(address).packed.ljust(16, b"\0")


def _spi(spi: int) -> bytes:
    return spi.to_bytes(4)


def _family(address: str) -> int:
    return _AF_INET if ipaddress.ip_address(address).version == 4 else _AF_INET6


# --- answers ----------------------------------------------------------------------------------------------


def decode(datagram: bytes) -> list[Report]:
    """Return what one datagram of the kernel says; kinds of messages that nobody asked for are left out.

    ``IpsecError`` if it is longer than ``MAX_DATAGRAM_BYTES`` or not laid out as it should be.
    """
    if len(datagram) > MAX_DATAGRAM_BYTES:
        raise _bad(f"a datagram of {len(datagram)} bytes, at most {MAX_DATAGRAM_BYTES} are taken")
    reports: list[Report] = []
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < _HEADER.size:
            raise _bad(f"at byte {offset}: {len(datagram) - offset} bytes, a netlink header has {_HEADER.size}")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise _bad(f"at byte {offset}: a message of {length} bytes in {len(datagram) - offset}")
        report = _message(kind, flags, sequence, datagram[offset + _HEADER.size : offset + length])
        if report is not None:
            reports.append(report)
        offset += (length + 3) & ~3
    return reports


def _message(kind: int, flags: int, sequence: int, body: bytes) -> Report | None:
    match kind:
        case _ if kind == _NLMSG_ERROR:
            return _acknowledgement(flags, sequence, body)
        case _ if kind == _NLMSG_DONE:
            return EndOfDump(sequence, -_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0)
        case _ if kind == _NEWSA:
            return _state_report(sequence, body)
        case _ if kind == _NEWPOLICY:
            return _policy_report(sequence, body)
        case _ if kind == _MAPPING:
            return _mapping_report(body)
    return None


def _acknowledgement(flags: int, sequence: int, body: bytes) -> Acknowledgement:
    _enough(body, _ERROR.size + _HEADER.size, "an acknowledgement")
    errno = -_ERROR.unpack_from(body)[0]
    text = ""
    if flags & _NLM_F_ACK_TLVS:
        # The request comes back behind the number, whole or (CAPPED) its header only; explanations follow it.
        echoed = _HEADER.size if flags & _NLM_F_CAPPED else _HEADER.unpack_from(body, _ERROR.size)[0]
        for kind, value in _attributes(body, _ERROR.size + ((echoed + 3) & ~3)):
            if kind == _NLMSGERR_ATTR_MSG:
                text = value.rstrip(b"\0").decode("ascii", "replace")
    return Acknowledgement(sequence, errno, text)


def _state_report(sequence: int, body: bytes) -> StateReport:
    _enough(body, _STATE_LENGTH, "a state")
    destination, spi, protocol = _ID.unpack_from(body, 56)
    source = body[80:96]
    octets, packets, _, _ = _CURRENT.unpack_from(body, 160)
    outside, replayed, bad = _STATISTICS.unpack_from(body, 192)
    _, reqid, family, mode, _, _ = _STATE_TAIL.unpack_from(body, 204)
    return StateReport(
        sequence,
        _text(source, family),
        _text(destination, family),
        int.from_bytes(spi),
        protocol,
        reqid,
        mode,
        packets,
        octets,
        replayed,
        bad,
        outside,
    )


def _policy_report(sequence: int, body: bytes) -> PolicyReport:
    _enough(body, _POLICY_LENGTH, "a policy")
    priority, _, direction, action, _, _ = _POLICY_TAIL.unpack_from(body, 152)
    reqids = []
    for kind, value in _attributes(body, _POLICY_LENGTH):
        if kind == _A_TMPL:
            whole = len(value) - len(value) % _TEMPLATE.size
            reqids += [fields[5] for fields in _TEMPLATE.iter_unpack(value[:whole])]
    return PolicyReport(sequence, _read_selector(body), direction, priority, action == 1, tuple(reqids))


def _mapping_report(body: bytes) -> MappingReport:
    _enough(body, _MAPPING_BODY.size, "a mapping")
    destination, spi, family, _, reqid, old, new, old_port, new_port = _MAPPING_BODY.unpack_from(body)
    return MappingReport(
        _text(destination, family),
        int.from_bytes(spi),
        reqid,
        _text(old, family),
        int.from_bytes(old_port),
        _text(new, family),
        int.from_bytes(new_port),
    )


def _read_selector(body: bytes) -> Selector:
    destination, source, dport, dmask, sport, smask, family, dlen, slen, protocol, _, _ = _SELECTOR.unpack_from(body)
    return Selector(
        _text(source, family) if slen else None,
        _text(destination, family) if dlen else None,
        int.from_bytes(sport) if smask == _ONE_PORT else None,
        int.from_bytes(dport) if dmask == _ONE_PORT else None,
        protocol,
    )


def _attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset < len(body):
        if len(body) - offset < _ATTRIBUTE.size:
            raise _bad(f"{len(body) - offset} bytes behind the last attribute")
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if not _ATTRIBUTE.size <= length <= len(body) - offset:
            raise _bad(f"attribute {kind} of {length} bytes in {len(body) - offset}")
        yield kind, body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _text(packed: bytes, family: int) -> str:
    if family == _AF_INET:
        return str(ipaddress.IPv4Address(packed[:4]))
    if family == _AF_INET6:
        return str(ipaddress.IPv6Address(packed))
    return "any" if family == 0 and not any(packed) else packed.hex()


def _bad(what: str) -> IpsecError:
    return IpsecError(f"netlink: {what}", "linux/xfrm.h", "Use the userspace back end and report the kernel's version.")


def _enough(body: bytes, needed: int, what: str) -> None:
    if len(body) < needed:
        raise _bad(f"{what} of {len(body)} bytes, it has {needed} at least")
