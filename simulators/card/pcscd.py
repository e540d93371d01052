"""A private pcscd with virtual readers, for tests and the lab: nothing of the machine's own is touched.

pcscd's socket path is compiled in, so each daemon gets a mount namespace with an empty ``/run``; clients reach
it as ``/proc/PID/root/run/pcscd/pcscd.comm``.  Works without root (then in a user namespace of its own) and as
root, also as root of the lab's user namespace.  Needs the Debian packages pcscd and vsmartcard-vpcd.

The daemon is a plain child: it gets SIGTERM from the kernel if the thread that started it ends, so start it
from the main thread.
"""

from __future__ import annotations

import atexit
import errno
import functools
import logging
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_log = logging.getLogger(__name__)
_PCSCD = "/usr/sbin/pcscd"
_DRIVER = Path("/usr/lib/pcsc/drivers/serial/libifdvpcd.so")
_SOCKET = "run/pcscd/pcscd.comm"
_CAP_SYS_ADMIN = 1 << 21
_START_TIMEOUT = 5.0
_STOP_TIMEOUT = 2.0
_ATTEMPTS = 5
# The reader's configuration lives in the private /run too: nothing is left on disk, whatever ends us.
_SCRIPT = """
mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/pcscd /run/readers &&
printf 'FRIENDLYNAME "%s"\\nDEVICENAME /dev/null:0x%X\\nLIBPATH %s\\nCHANNELID 0x%X\\n' "$1" "$2" "$3" "$2" \
  > /run/readers/vpcd && exec "$0" --foreground --error --config /run/readers
"""


class PcscdError(Exception):
    """The daemon could not be started; says why and what to install."""


def missing() -> str | None:
    """Say what this machine lacks to run a private pcscd, ``None`` if nothing."""
    lacks = [name for name in ("unshare", "setpriv") if shutil.which(name) is None]
    if not Path(_PCSCD).exists():
        lacks.append("pcscd (package pcscd)")
    if not _DRIVER.exists():
        lacks.append("libifdvpcd.so (package vsmartcard-vpcd)")
    return f"not installed: {', '.join(lacks)}" if lacks else None


class PrivatePcscd:
    """One daemon with two virtual readers; ``start`` and ``stop``, or a ``with`` statement.

    Both are synchronous and short: 10 to 30 ms to start, a few to stop.
    """

    def __init__(self, reader: str = "UICC") -> None:
        self.readers = (f"{reader} 00 00", f"{reader} 00 01")
        """Names of the readers as clients see them."""
        self.ports = (0, 0)
        """TCP ports on which the readers take a ``VirtualCard``; known after ``start``."""
        self._name = reader
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """What a client needs in PCSCLITE_CSOCK_NAME before its first PC/SC call."""
        return Path(f"/proc/{self.pid}/root") / _SOCKET

    @property
    def pid(self) -> int:
        """Process id of the daemon; ``PcscdError`` if it does not run."""
        if self._process is None:
            raise PcscdError("pcscd is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and wait until its socket and readers are there; ``PcscdError`` if they do not come."""
        if (lack := missing()) is not None:
            raise PcscdError(lack)
        for attempt in range(1, _ATTEMPTS + 1):
            port = _free_pair_of_ports()
            try:
                self._start(port)
            except PcscdError:
                self.stop()
                if attempt == _ATTEMPTS:
                    raise
                _log.info("pcscd did not come up at port %d; once more", port, exc_info=True)
            else:
                _log.info("pcscd %d, readers at ports %d and %d", self.pid, *self.ports)
                return

    def stop(self) -> None:
        """End the daemon; its readers and cards go with it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> PrivatePcscd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, port: int) -> None:
        namespaces = ["--mount"] if _may_mount() else ["--user", "--map-root-user", "--mount"]
        command = [
            *("unshare", *namespaces, "--propagation", "private", "setpriv", "--pdeathsig", "TERM"),
            *("sh", "-c", _SCRIPT, _PCSCD, self._name, str(port), str(_DRIVER)),
        ]
        with tempfile.TemporaryFile() as said:
            # A process group of its own: an interrupt at the terminal is for us to pass on, in our order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, process_group=0
            )
            self.ports = (port, port + 1)
            deadline = time.monotonic() + _START_TIMEOUT
            while not self._is_up():
                if self._process.poll() is not None:
                    said.seek(0)
                    reason = said.read(2000).decode(errors="replace").strip()
                    raise PcscdError(f"pcscd ended with {self._process.returncode}: {reason}")
                if time.monotonic() > deadline:
                    raise PcscdError(f"pcscd did not listen within {_START_TIMEOUT:g} s")
                time.sleep(0.002)  # its sockets appear in another mount namespace: nothing to wait on

    def _is_up(self) -> bool:
        try:
            listening = {
                int(line.split()[1].rpartition(":")[2], 16)
                for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
                if line.split()[3] == "0A"
            }
            if not listening.issuperset(self.ports):
                return False
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.socket))
        except OSError as error:
            if error.errno == errno.EACCES:
                raise PcscdError(f"{self.socket}: not permitted (is /proc of another PID namespace?)") from error
            return False
        return True


def environment(daemon: PrivatePcscd) -> dict[str, str]:
    """Return what to add to the environment of a client process that uses this daemon all its life."""
    return {"PCSCLITE_CSOCK_NAME": str(daemon.socket)}


def use_in_this_process(daemon: PrivatePcscd) -> None:
    """Let PC/SC calls of this process go to ``daemon``, or to another one than before.

    The PC/SC library reads the socket's name once a process, so the name stays and the link behind it moves.
    Call it before the first PC/SC call.
    """
    link = _link()
    link.unlink(missing_ok=True)
    link.symlink_to(daemon.socket)


@functools.cache
def _link() -> Path:
    directory = tempfile.mkdtemp(prefix="pcsc-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    link = Path(directory) / "socket"
    os.environ["PCSCLITE_CSOCK_NAME"] = str(link)
    return link


def _may_mount() -> bool:
    """Whether we hold CAP_SYS_ADMIN here, as root or as root of a user namespace."""
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & _CAP_SYS_ADMIN)


def _free_pair_of_ports() -> int:
    """Return a port p below the ephemeral ones such that p and p + 1 are free now."""
    while True:
        port = random.randrange(20_000, 32_000, 2)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("", port))
                second.bind(("", port + 1))
            except OSError:
                continue
            return port
