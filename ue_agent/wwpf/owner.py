"""Who is at the other end of a local TCP connection: the user and the program that hold its socket (proc(5)).

``/proc/net/tcp`` names the user and the inode of the peer's socket, ``/proc/<pid>/fd`` the processes that hold that
inode.  Blocking; a few milliseconds.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ue_agent.wwpf.config import Browser

_PROC = Path("/proc")
_ESTABLISHED = "01"
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a socket."""

    uid: int
    executables: tuple[str, ...]
    """Programs of all processes that hold it, empty if none could be seen."""

    def is_one_of(self, browsers: Sequence[Browser]) -> bool:
        """Tell whether every process that holds the socket is a configured browser of this user."""
        allowed = {browser.executable for browser in browsers if browser.uid in (None, self.uid)}
        return bool(self.executables) and all(executable in allowed for executable in self.executables)

    @property
    def stranger(self) -> str:
        """One sentence on why this is no configured browser."""
        if not self.executables:
            return (
                f"a program of user {self.uid} that cannot be seen: run the agent as the browser's user, or with "
                "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            )
        return f"{', '.join(self.executables)} of user {self.uid}: it is not a configured browser"


def find_owner(peer: tuple[str, int], ours: tuple[str, int]) -> Owner | None:
    """Return who connected from ``peer`` to ``ours`` (both of this device); ``None`` when it is nobody here."""
    found = _find_socket(peer, ours)
    if found is None:
        return None
    uid, inode = found
    return Owner(uid, _holders(uid, inode))


def _find_socket(peer: tuple[str, int], ours: tuple[str, int]) -> tuple[int, str] | None:
    for table in ("tcp", "tcp6"):
        wanted = {(_spell(peer, mapped), _spell(ours, mapped)) for mapped in _forms(peer[0], table)}
        try:
            with (_PROC / "net" / table).open(encoding="ascii") as lines:
                next(lines, None)
                for line in lines:
                    fields = line.split(None, 10)
                    if (fields[1], fields[2]) in wanted and fields[3] == _ESTABLISHED:
                        return int(fields[7]), fields[9]
        except FileNotFoundError:  # no IPv6
            continue
    return None


def _forms(address: str, table: str) -> tuple[bool, ...]:
    """Which spellings of an address a table can hold: an IPv4 connection of an IPv6 socket is mapped."""
    if ipaddress.ip_address(address).version == 4:
        return (True,) if table == "tcp6" else (False,)
    return (False,) if table == "tcp6" else ()


def _spell(endpoint: tuple[str, int], mapped: bool) -> str:
    """Write an address as /proc/net/tcp does: 32-bit words in the machine's byte order, hexadecimal."""
    packed = ipaddress.ip_address(endpoint[0]).packed
    if mapped:
        packed = bytes(10) + b"\xff\xff" + packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    if sys.byteorder == "little":
        words = (word[::-1] for word in words)
    return f"{b''.join(words).hex().upper()}:{endpoint[1]:04X}"


def _holders(uid: int, inode: str) -> tuple[str, ...]:
    link = f"socket:[{inode}]"
    executables: list[str] = []
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            if process.stat().st_uid != uid or not _holds(process, link):
                continue
            executables.append(_executable(process))
        except (FileNotFoundError, ProcessLookupError):  # it ended
            continue
        except PermissionError:  # not ours to see, so nobody we know
            continue
    return tuple(sorted(set(executables)))


def _executable(process: Path) -> str:
    """Return the program's path, as it is here: in a mount namespace of its own anybody calls a file as he likes."""
    path = str((process / "exe").readlink())
    if not path.endswith(_DELETED):
        try:
            same = (process / "exe").samefile(path)
        except FileNotFoundError:
            same = False
    else:
        # A browser that was updated while it runs is still that browser.
        path = path.removesuffix(_DELETED)
        same = (process / "ns/mnt").samefile("/proc/self/ns/mnt")
    return path if same else f"{path} (which is another file here)"


def _holds(process: Path, link: str) -> bool:
    with os.scandir(process / "fd") as entries:
        for entry in entries:
            try:
                if os.readlink(entry.path) == link:  # noqa: PTH115 - the fastest of some thousand calls
                    return True
            except FileNotFoundError:
                continue
    return False
