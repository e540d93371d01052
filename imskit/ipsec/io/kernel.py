"""The kernel back end: Linux XFRM does the work, this module only fills its tables.

For each association a state; for UDP and TCP each a policy that demands it, out and in.  Around them, for each
protected port of this machine and for as long as one set uses it, policies of lower rank that drop all else from and to
it.  So a protected port never speaks in clear, nor hears it, whether its associations are there, not yet, or no longer.
What the kernel does not check: packets that this machine sends to itself over its loopback interface.

States and policies carry the mark of this process (``Ownership``): they are removed by ``remove`` and ``close``, and
after a crash by the next back end that is opened in the same network namespace.

MTU: the kernel fragments a datagram that is too long *after* sealing it (RFC 4303 3.3.4), and puts the fragments of
a received packet together before opening it; TCP is told the path's MTU less what ESP adds.  A packet that may not be
fragmented and is too long for the link is refused to the sender with EMSGSIZE.

UDP encapsulation works where no NAT changes the inner addresses; behind one use the userspace back end, which replaces
them (annex M; the kernel compares the inner addresses with the association's and drops what differs).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair, Encryption, Integrity, expand_keys
from imskit.ipsec.association import Address, AssociationSet, SecurityAssociation
from imskit.ipsec.errors import IpsecError, SpiCollision
from imskit.ipsec.io.xfrm_socket import Ownership, XfrmSocket
from imskit.ipsec.statistics import BackendStatistics, SetStatistics
from imskit.ipsec.wire import xfrm
from imskit.secrets import Secret
from imskit.tasks import spawn

_log = logging.getLogger(__name__)

_PROTOCOLS = (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
_PROTECT_PRIORITY = 900
_BLOCK_PRIORITY = 901
_UDP_ENCAP = 100
_UDP_ENCAP_ESPINUDP = 2
_KEEP_ALIVE = b"\xff"
_COUNTERS = Path("/proc/thread-self/net/xfrm_stat")
_DUMMY_ADDRESSES = (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"))

_AUTHENTICATION = {Integrity.HMAC_SHA_1_96: ("hmac(sha1)", 96), Integrity.HMAC_MD5_96: ("hmac(md5)", 96)}
_ENCRYPTION = {
    Encryption.NULL: "ecb(cipher_null)",
    Encryption.AES_CBC: "cbc(aes)",
    Encryption.DES_EDE3_CBC: "cbc(des3_ede)",
}

_PolicyKey = tuple[xfrm.Selector, xfrm.Direction]


@dataclass
class _Installed:
    """One set in the kernel, and how to undo it (the last first)."""

    associations: AssociationSet
    undo: list[Callable[[], object]] = field(default_factory=list)


class KernelBackend:
    """IPsec by the kernel, for the network namespace in which it is made; see ``IpsecBackend`` for the methods.

    Needs CAP_NET_ADMIN there.
    """

    kind: Literal["kernel"] = "kernel"
    device: None = None

    def __init__(self) -> None:
        """Open the tables and remove what a crashed run left; ``IpsecError`` if they cannot be opened."""
        with contextlib.ExitStack() as opened, _explained("open the kernel's IPsec tables"):
            self._tables = opened.enter_context(contextlib.closing(XfrmSocket()))
            self._ownership = opened.enter_context(contextlib.closing(Ownership(self._tables)))
            self._rebinding = opened.enter_context(contextlib.closing(XfrmSocket(1 << (xfrm.MAPPING_GROUP - 1))))
            self._closing = opened.pop_all()
        self._sets: dict[str, _Installed] = {}
        self._policies: Counter[_PolicyKey] = Counter()
        self._encapsulation: dict[Address, tuple[socket.socket, int]] = {}
        # Opened once: the file stays that of the namespace in which it was opened.
        self._counter_file = _open_counters()
        if self._counter_file is not None:
            self._closing.callback(self._counter_file.close)
        self._counted_before = self._counters()
        self._listening = False

    # --- the interface ----------------------------------------------------------------------------------

    async def install(self, associations: AssociationSet) -> None:
        """As ``IpsecBackend.install``."""
        name = associations.name
        if name in self._sets:
            raise IpsecError(f"there is a security agreement {name} already", "", "Remove it first.")
        installed = _Installed(associations)
        try:
            with _explained(f"install the security agreement {name}"):
                self._install(installed)
        except BaseException:
            _undo(installed)
            raise
        self._sets[name] = installed
        if associations.outbound[0].encapsulation is not None:
            _log.warning("security agreement %s: if a NAT changes addresses, it needs the userspace back end", name)
        _log.info(
            "security agreement %s: %s in the kernel, %s <-> %s",
            name,
            associations.outbound[0].pair,
            associations.outbound[0].source,
            associations.outbound[0].destination,
        )

    async def remove(self, name: str) -> None:
        """As ``IpsecBackend.remove``."""
        installed = self._sets.pop(name, None)
        if installed is not None:
            _undo(installed)
            _log.info("security agreement %s removed", name)

    def statistics(self) -> BackendStatistics:
        """As ``IpsecBackend.statistics``.

        What the kernel counts for the whole namespace (other programs' packets among it) is counted from the opening
        of this back end.  ``bad_selector`` is 0: the kernel does not count it by association.
        """
        now = self._counters()

        def since(*names: str) -> int:
            return sum(now[name] - self._counted_before[name] for name in names)

        return BackendStatistics(
            {name: self._statistics(installed.associations) for name, installed in self._sets.items()},
            unknown_spi=since("XfrmInNoStates"),
            malformed=since("XfrmInHdrError", "XfrmInBufferError"),
            unprotected=since("XfrmOutPolBlock", "XfrmOutNoStates"),
            clear=since("XfrmInPolBlock", "XfrmInTmplMismatch") if now else None,
        )

    async def close(self) -> None:
        """As ``IpsecBackend.close``."""
        for name in list(self._sets):
            await self.remove(name)
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._rebinding.fileno())
            self._listening = False
        self._closing.close()

    # --- states and policies ----------------------------------------------------------------------------

    def _install(self, installed: _Installed) -> None:
        associations = installed.associations
        for protected in dict.fromkeys(sa.destination for sa in associations.inbound):
            for selector, direction in _all_of(protected):
                template = xfrm.Template(*_ends(protected, direction), self._ownership.reqid)
                self._put_policy(installed, xfrm.Policy(selector, direction, _BLOCK_PRIORITY, template, block=True))
        for sa in associations.inbound + associations.outbound:
            if sa.encapsulation is not None:
                self._encapsulate(installed, sa, inbound=sa in associations.inbound)
            self._put_state(installed, sa, inbound=sa in associations.inbound)
        for sa in associations.inbound:
            self._put_policies(installed, sa, xfrm.Direction.IN)
        for sa in associations.outbound:
            self._put_policies(installed, sa, xfrm.Direction.OUT)

    def _put_state(self, installed: _Installed, sa: SecurityAssociation, *, inbound: bool) -> None:
        state = _state(sa, self._ownership.reqid)
        try:
            self._tables.ask(functools.partial(xfrm.add_state, state))
        except FileExistsError:
            if inbound:
                raise SpiCollision(sa.spi, f"another association towards {sa.destination.ip}") from None
            raise IpsecError(
                f"an association with SPI {sa.spi} to {sa.destination.ip} is installed already",
                "RFC 4301 4.4.2.1",
                "The far end has not forgotten it; begin the agreement again.",
            ) from None
        deletion = functools.partial(xfrm.delete_state, sa.destination.ip, sa.spi)
        installed.undo.append(lambda: self._delete(deletion))

    def _put_policies(self, installed: _Installed, sa: SecurityAssociation, direction: xfrm.Direction) -> None:
        mode = xfrm.Mode.TUNNEL if sa.encapsulation is not None else xfrm.Mode.TRANSPORT
        template = xfrm.Template(sa.source.ip, sa.destination.ip, self._ownership.reqid, mode)
        for protocol in _PROTOCOLS:
            self._put_policy(installed, xfrm.Policy(_selector(sa, protocol), direction, _PROTECT_PRIORITY, template))

    def _put_policy(self, installed: _Installed, policy: xfrm.Policy) -> None:
        """Sets of this back end share the policies that are alike: which state serves them, its selector says."""
        key = policy.selector, policy.direction
        if not self._policies[key]:
            try:
                self._tables.ask(functools.partial(xfrm.add_policy, policy))
            except FileExistsError:
                raise IpsecError(
                    f"another program has an IPsec policy for {_described(policy.selector)}",
                    "",
                    "End it, or remove the policy (ip xfrm policy).",
                ) from None
        self._policies[key] += 1
        installed.undo.append(lambda: self._withdraw_policy(key))

    def _withdraw_policy(self, key: _PolicyKey) -> None:
        self._policies[key] -= 1
        if not self._policies[key]:
            del self._policies[key]
            self._delete(functools.partial(xfrm.delete_policy, *key))

    def _delete(self, request: Callable[[int], bytes]) -> None:
        try:
            self._tables.ask(request)
        except OSError as error:
            # Somebody flushed the tables (ENOENT, ESRCH): what was to go has gone.
            if error.errno not in (errno.ENOENT, errno.ESRCH):
                _log.warning("IPsec tables: an entry could not be removed: %s", error)
        except IpsecError as error:
            _log.warning("IPsec tables: an entry may not have been removed: %s", error)

    def _counters(self) -> Counter[str]:
        """The namespace's XFRM counters."""
        if self._counter_file is None or self._counter_file.closed:
            return Counter()
        self._counter_file.seek(0)
        pairs = (line.split() for line in self._counter_file)
        return Counter({name: int(value) for name, value in pairs})

    def _statistics(self, associations: AssociationSet) -> SetStatistics:
        inbound = [self._tables.state(sa.destination.ip, sa.spi) for sa in associations.inbound]
        outbound = [self._tables.state(sa.destination.ip, sa.spi) for sa in associations.outbound]
        return SetStatistics(
            packets_in=sum(state.packets for state in inbound if state),
            bytes_in=sum(state.bytes for state in inbound if state),
            packets_out=sum(state.packets for state in outbound if state),
            bytes_out=sum(state.bytes for state in outbound if state),
            replayed=sum(state.replayed + state.outside_window for state in inbound if state),
            bad_integrity=sum(state.bad_integrity for state in inbound if state),
        )

    # --- UDP encapsulation ------------------------------------------------------------------------------

    def _encapsulate(self, installed: _Installed, sa: SecurityAssociation, *, inbound: bool) -> None:
        """Have a socket on this side's port that takes ESP out of UDP, and keep a NAT's binding alive."""
        assert sa.encapsulation is not None
        if inbound:
            ours = Address(sa.destination.ip, sa.encapsulation.destination_port)
        else:
            ours = Address(sa.source.ip, sa.encapsulation.source_port)
        held, users = self._encapsulation.get(ours, (None, 0))
        if held is None:
            held = _encapsulation_socket(ours)
        self._encapsulation[ours] = held, users + 1
        installed.undo.append(lambda: self._decapsulate_no_more(ours))
        if not self._listening:
            asyncio.get_running_loop().add_reader(self._rebinding.fileno(), self._rebound)
            self._listening = True
        if not inbound and sa.encapsulation.keep_alive_s is not None and sa is installed.associations.outbound[0]:
            task = spawn(_keep_alive(held, sa, sa.encapsulation.keep_alive_s), f"keep-alive {sa.destination.ip}")
            installed.undo.append(task.cancel)

    def _decapsulate_no_more(self, ours: Address) -> None:
        held, users = self._encapsulation.pop(ours)
        if users > 1:
            self._encapsulation[ours] = held, users - 1
        else:
            held.close()

    def _rebound(self) -> None:
        """A peer's authenticated packets come from another port now: send where they come from (RFC 7296 2.23)."""
        for report in self._rebinding.hear():
            if isinstance(report, xfrm.MappingReport) and report.reqid == self._ownership.reqid:
                self._follow(report)

    def _follow(self, report: xfrm.MappingReport) -> None:
        for name, installed in self._sets.items():
            inbound, outbound = installed.associations.inbound, installed.associations.outbound
            if not any(sa.spi == report.spi and sa.destination.ip == report.destination for sa in inbound):
                continue
            if report.new_source != inbound[0].source.ip:
                _log.warning("security agreement %s: the peer's address is another now, it must register anew", name)
                return
            for sa in inbound + outbound:
                assert sa.encapsulation is not None
                theirs, ours = report.new_port, sa.encapsulation.source_port
                ports = xfrm.Encapsulation(ours, theirs)
                if sa in inbound:
                    ports = xfrm.Encapsulation(theirs, sa.encapsulation.destination_port)
                state = _state(sa, self._ownership.reqid, ports)
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    self._tables.ask(functools.partial(xfrm.update_state, state))
            _log.info("security agreement %s: the peer's NAT has port %d for it now", name, report.new_port)
            return


def examine_kernel(pairs: Sequence[AlgorithmPair] = STANDARD_PAIRS) -> None:
    """Add a dummy association of each pair, IPv4 and IPv6, and remove it; ``IpsecError`` says what is missing.

    A policy would be accepted by a kernel without ESP, and would then swallow the packets: only a state tells.
    """
    zero = Secret(bytes(16))
    with contextlib.ExitStack() as stack:
        with _explained("open the kernel's IPsec tables"):
            tables = stack.enter_context(contextlib.closing(XfrmSocket()))
            mark = stack.enter_context(contextlib.closing(Ownership(tables))).reqid
        for pair in pairs:
            for source, destination in _DUMMY_ADDRESSES:
                spi = 256 + secrets.randbelow(1 << 31)
                ends = Address(source, 5060), Address(destination, 5060)
                state = _state(SecurityAssociation(spi, *ends, pair, expand_keys(pair, zero, zero)), mark)
                with _explained(f"use {pair} with IPv{ends[0].version} in this kernel"):
                    tables.ask(functools.partial(xfrm.add_state, state))
                    tables.ask(functools.partial(xfrm.delete_state, destination, spi))


def _state(sa: SecurityAssociation, reqid: int, ports: xfrm.Encapsulation | None = None) -> xfrm.State:
    """The kernel's view of ``sa``; ``ports``: outer ports where they are no longer those of the agreement."""
    if sa.pair.encryption is Encryption.AES_GCM:
        combined = xfrm.Cipher("rfc4106(gcm(aes))", sa.keys.encryption, 128)
    elif sa.pair.integrity is Integrity.AES_GMAC:
        combined = xfrm.Cipher("rfc4543(gcm(aes))", sa.keys.integrity, 128)
    else:
        combined = None
    authentication = encryption = None
    if combined is None:
        name, icv_bits = _AUTHENTICATION[sa.pair.integrity]
        authentication = xfrm.Cipher(name, sa.keys.integrity, icv_bits)
        encryption = xfrm.Cipher(_ENCRYPTION[sa.pair.encryption], sa.keys.encryption)
    if sa.encapsulation is not None and ports is None:
        ports = xfrm.Encapsulation(sa.encapsulation.source_port, sa.encapsulation.destination_port)
    return xfrm.State(
        sa.source.ip,
        sa.destination.ip,
        sa.spi,
        reqid,
        _selector(sa, xfrm.ANY_PROTOCOL),
        xfrm.Mode.TRANSPORT if sa.encapsulation is None else xfrm.Mode.TUNNEL,
        combined,
        authentication,
        encryption,
        ports,
    )


def _selector(sa: SecurityAssociation, protocol: int) -> xfrm.Selector:
    return xfrm.Selector(sa.source.ip, sa.destination.ip, sa.source.port, sa.destination.port, protocol)


def _all_of(protected: Address) -> Iterator[_PolicyKey]:
    """Everything from and to a protected port of ours, whoever is at the other end."""
    for protocol in _PROTOCOLS:
        yield xfrm.Selector(None, protected.ip, None, protected.port, protocol), xfrm.Direction.IN
        yield xfrm.Selector(protected.ip, None, protected.port, None, protocol), xfrm.Direction.OUT


def _ends(protected: Address, direction: xfrm.Direction) -> tuple[str, str]:
    anyone = "0.0.0.0" if protected.version == 4 else "::"
    return (anyone, protected.ip) if direction is xfrm.Direction.IN else (protected.ip, anyone)


def _described(selector: xfrm.Selector) -> str:
    name = "UDP" if selector.protocol == socket.IPPROTO_UDP else "TCP"
    return f"{name} {selector.source}:{selector.source_port} -> {selector.destination}:{selector.destination_port}"


def _encapsulation_socket(ours: Address) -> socket.socket:
    family = socket.AF_INET if ours.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.bind((ours.ip, ours.port))
        made.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESPINUDP)
    except BaseException:
        made.close()
        raise
    return made


async def _keep_alive(held: socket.socket, sa: SecurityAssociation, every: float) -> None:
    assert sa.encapsulation is not None
    while True:
        await asyncio.sleep(every)
        with contextlib.suppress(OSError):  # the network is away; the next one may arrive
            held.sendto(_KEEP_ALIVE, (sa.destination.ip, sa.encapsulation.destination_port))


def _undo(installed: _Installed) -> None:
    while installed.undo:
        installed.undo.pop()()


def _open_counters() -> TextIO | None:
    try:
        return _COUNTERS.open()
    except OSError:  # a kernel built without them
        return None


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn the system's refusals into ``IpsecError``."""
    try:
        yield
    except OSError as error:
        raise IpsecError(f"cannot {doing}", error.strerror or str(error), _cure(error)) from error


def _cure(error: OSError) -> str:
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return "It needs CAP_NET_ADMIN: run it as root."
        case errno.EPROTONOSUPPORT:
            return "The kernel has no ESP or no XFRM (modules esp4, esp6, xfrm_user): use the userspace back end."
        case errno.ENOSYS | errno.ENOENT:
            return "The kernel lacks an algorithm: use another pair or the userspace back end."
        case errno.EADDRINUSE:
            return "Another program (an IKE daemon?) has the port for encapsulated ESP: end it."
        case errno.EADDRNOTAVAIL:
            return "The address is not one of this machine's."
    return "See the kernel's log."
