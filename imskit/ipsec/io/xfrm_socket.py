"""A NETLINK_XFRM socket: requests that the kernel answers on the spot, and whose process owns what in its tables."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator

from imskit.ipsec.errors import IpsecError
from imskit.ipsec.wire import xfrm
from imskit.secrets import Secret

_log = logging.getLogger(__name__)

_NETLINK_XFRM = 6
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_ANSWER_SECONDS = 5.0
_READ_BYTES = 1 << 16

_REQID_TAG = 0x5C3A_9100
_INSTANCES = 256
"""Tables' entries of this program have a reqid of the tag and the number of the process that made them."""


class XfrmSocket:
    """Speaks to the XFRM tables of the network namespace in which it is made.

    Refusals are ``OSError`` with the kernel's own words; an answer that cannot be read is ``IpsecError``.
    """

    def __init__(self, groups: int = 0) -> None:
        """``groups``: bit mask of multicast groups to hear; such a socket is for ``hear`` only."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_XFRM)
        self._sequence = 0
        try:
            self._socket.bind((0, groups))
            self._socket.settimeout(0 if groups else _ANSWER_SECONDS)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                with contextlib.suppress(OSError):  # its words are a comfort, not a need
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it; the tables stay as they are."""
        self._socket.close()

    def ask(self, request: Callable[[int], bytes | Secret[bytes]]) -> None:
        """Send what ``request`` makes of a sequence number and wait for its acknowledgement."""
        for _ in self._answers(request):
            pass

    def state(self, destination: str, spi: int) -> xfrm.StateReport | None:
        """The state named, with its counters; ``None`` if there is none."""
        try:
            for report in self._answers(lambda sequence: xfrm.get_state(destination, spi, sequence)):
                if isinstance(report, xfrm.StateReport):
                    return report
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise
        return None

    def states(self) -> list[xfrm.StateReport]:
        """Every state of this namespace."""
        return [report for report in self._answers(xfrm.dump_states) if isinstance(report, xfrm.StateReport)]

    def policies(self) -> list[xfrm.PolicyReport]:
        """Every policy of this namespace."""
        return [report for report in self._answers(xfrm.dump_policies) if isinstance(report, xfrm.PolicyReport)]

    def hear(self) -> list[xfrm.Report]:
        """What the groups have said, without waiting."""
        reports: list[xfrm.Report] = []
        while True:
            try:
                reports += xfrm.decode(self._socket.recv(_READ_BYTES))
            except BlockingIOError:
                return reports
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost; the next packet brings them again
                    raise

    def _answers(self, request: Callable[[int], bytes | Secret[bytes]]) -> Iterator[xfrm.Report]:
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        message = request(self._sequence)
        self._socket.send(message.reveal() if isinstance(message, Secret) else message)
        while True:
            reports = xfrm.decode(self._socket.recv(_READ_BYTES))
            for report in reports:
                match report:
                    case xfrm.Acknowledgement(sequence, number, text) if sequence == self._sequence:
                        if number:
                            raise OSError(number, text or os.strerror(number))
                        return
                    case xfrm.EndOfDump(sequence, number) if sequence == self._sequence:
                        if number:
                            raise OSError(number, os.strerror(number))
                        return
                    case xfrm.StateReport(sequence) | xfrm.PolicyReport(sequence) if sequence == self._sequence:
                        yield report


class Ownership:
    """Marks what this process puts into the tables, so that what a dead one left there can be told and removed.

    The mark is the reqid.  Its number is held as the name of an abstract Unix socket, which, as the tables do, belongs
    to the network namespace, and which the kernel takes back when the process ends, however it ends.
    """

    def __init__(self, tables: XfrmSocket) -> None:
        """Take the first number that is free; ``IpsecError`` if none is."""
        for number in range(_INSTANCES):
            held = _hold(number)
            if held is not None:
                self._held = held
                self.reqid = _REQID_TAG | number
                break
        else:
            raise IpsecError(
                f"{_INSTANCES} programs hold IPsec associations here already", "", "End those that are not needed."
            )
        try:
            self._remove_left_overs(tables)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the number back; the caller has removed what was marked with it."""
        self._held.close()

    def _remove_left_overs(self, tables: XfrmSocket) -> None:
        states = [state for state in tables.states() if state.protocol == xfrm.ESP and _is_ours(state.reqid)]
        policies = [policy for policy in tables.policies() if policy.reqids and all(map(_is_ours, policy.reqids))]
        for mark in {state.reqid for state in states} | {policy.reqids[0] for policy in policies}:
            # Whoever holds the number lives, and what is marked with it is in use; what has our own is older than us.
            held = None if mark == self.reqid else _hold(mark - _REQID_TAG)
            if mark != self.reqid and held is None:
                continue
            of_policies = [_deletion_of_policy(policy) for policy in policies if policy.reqids[0] == mark]
            of_states = [_deletion_of_state(state) for state in states if state.reqid == mark]
            for deletion in of_policies + of_states:
                _quietly(tables, deletion)
            if held is not None:
                held.close()
            _log.warning(
                "removed %d associations and %d policies that an earlier run had left", len(of_states), len(of_policies)
            )


def _deletion_of_policy(policy: xfrm.PolicyReport) -> Callable[[int], bytes]:
    return lambda sequence: xfrm.delete_policy(policy.selector, policy.direction, sequence)


def _deletion_of_state(state: xfrm.StateReport) -> Callable[[int], bytes]:
    return lambda sequence: xfrm.delete_state(state.destination, state.spi, sequence)


def _quietly(tables: XfrmSocket, request: Callable[[int], bytes]) -> None:
    try:
        tables.ask(request)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):  # gone meanwhile
            raise


def _is_ours(reqid: int) -> bool:
    return reqid & ~(_INSTANCES - 1) == _REQID_TAG


def _hold(number: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        holder.bind(f"\0imsbridge-ipsec-{number}")
    except OSError:
        holder.close()
        return None
    return holder
