"""A host of the lab: a network namespace with an ``/etc`` and a ``/run`` of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from simulators.lab.world import LabError, command, die_with_parent

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 8.0


class Machine:
    """Where programs run and browsers are: this machine itself.

    ``root`` is a folder for files and logs; ``home`` is its user's.
    """

    pid: int | None = None
    """The process that holds its namespaces; `None`: those of this program."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.home = Path.home()
        self._processes: list[Process] = []

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` here."""
        return list(argv)

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """Return a non-blocking socket of this program in this machine's network."""
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def start(
        self,
        label: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        ready: str | None = None,
        within: float = 60.0,
        stdin: bytes | None = None,
    ) -> Process:
        """Start a long-running program and, if ``ready`` is given, await a line of its log that contains it.

        ``LabError`` with the end of the log if it ends before, or is not ready ``within`` seconds.
        """
        log = self.root / f"{label}.log"  # goes on where an earlier program of this name ended
        environment = {**os.environ, "HOME": str(self.home), "PYTHONUNBUFFERED": "1", **(env or {})}
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *self.wrap(argv),
                stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
                stdout=sink if ready is None else asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT if ready is not None else sink,
                env=environment,
                preexec_fn=die_with_parent,
            )
        started = Process(label, self.name, process, log)
        self._processes.append(started)
        if stdin is not None:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
        if ready is not None:
            await started.await_line(ready, within)
        return started

    async def stop(self) -> None:
        """End the programs that were started here, the newest first."""
        for process in reversed(self._processes):
            await process.stop()
        self._processes.clear()


class Host(Machine):
    """One machine of the lab, e.g. ``handset``.

    ``root`` is a folder for its files (home, logs).  The host's ``/etc`` is a copy-on-write view of the machine's,
    ``/run`` is empty; what is written there is seen on this host only.
    """

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name, root)
        self.home = root / "home"
        self.home.mkdir(exist_ok=True)
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                "echo ready; exec sleep infinity",
            ],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # the lab has one thread while hosts are made
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise LabError(f"host {name}: the kernel refused a network or mount namespace")
        self.pid: int = self._holder.pid
        self.run("ip", "link", "set", "lo", "up")
        self._own_etc()
        self.run("mount", "-t", "tmpfs", "tmpfs", "/run")

    def _own_etc(self) -> None:
        layers = self.root / "etc"
        layers.mkdir()
        self.run("mount", "-t", "tmpfs", "tmpfs", str(layers))
        self.run("mkdir", f"{layers}/upper", f"{layers}/work", f"{layers}/copy")
        if is_machine_root():
            overlay = f"lowerdir=/etc,upperdir={layers}/upper,workdir={layers}/work"
            with contextlib.suppress(LabError):
                self.run("mount", "-t", "overlay", "overlay", "-o", overlay, "/etc")
                return
        # In a user namespace (root's folders cannot be written through an overlay) or without overlayfs, a copy
        # does as well; what may not be read is not needed.
        copy = 'cp -r --no-preserve=ownership /etc/. "$1" 2>/dev/null; mount --bind "$1" /etc'
        self.run("sh", "-c", copy, "sh", f"{layers}/copy")

    def wrap(self, argv: Sequence[str], cwd: Path | None = None) -> list[str]:
        """Return the command line that runs ``argv`` on this host."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", f"--wd={cwd or Path.cwd()}", "--", *argv]

    def run(self, *argv: str) -> str:
        """Run a short command on this host; ``LabError`` if it fails."""
        return command(*self.wrap(argv))

    def write(self, path: str, text: str) -> None:
        """Write a file as this host sees it, with the folders above it."""
        script = 'mkdir -p "$(dirname "$1")" && cat >"$1"'
        done = subprocess.run(
            self.wrap(["sh", "-c", script, "sh", path]),
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"host {self.name}: cannot write {path}: {done.stderr.strip()}")

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """Return a non-blocking socket of this program in this host's network."""
        made: list[socket.socket | OSError] = []

        def make() -> None:
            # Namespaces are a thread's own: this one goes to the host's network and ends there.
            try:
                with Path(f"/proc/{self.pid}/ns/net").open("rb") as namespace:
                    os.setns(namespace.fileno(), os.CLONE_NEWNET)
                made.append(socket.socket(family, kind, protocol))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        made[0].setblocking(False)
        return made[0]

    async def stop(self) -> None:
        """End this host's programs, the newest first, then its namespaces."""
        await super().stop()
        self._holder.terminate()
        self._holder.wait()


def is_machine_root() -> bool:
    """Whether this process's root is the machine's, not that of a user namespace."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


class Process:
    """A program running on a host; its output goes to ``log``."""

    def __init__(self, label: str, host: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.label = label
        self.host = host
        self.process = process
        self.log = log
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Process id as the lab sees it."""
        return self.process.pid

    async def await_line(self, text: str, within: float) -> None:
        """Copy output to the log until a line contains ``text``, then go on copying in the background."""
        found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._copy(text.encode(), found))  # noqa: TID251  # kept here
        try:
            await asyncio.wait_for(asyncio.shield(found), within)
        except TimeoutError:
            raise LabError(
                f"{self.label} on {self.host} was not ready within {within:.0f} s; its log ends:\n{self.tail()}"
            ) from None

    async def _copy(self, text: bytes, found: asyncio.Future[None]) -> None:
        assert self.process.stdout is not None
        with self.log.open("ab") as sink:
            await self._copy_lines(self.process.stdout, sink, text, found)
        if not found.done():
            await self.process.wait()
            found.set_exception(
                LabError(f"{self.label} on {self.host} ended with code {self.process.returncode}:\n{self.tail()}")
            )

    @staticmethod
    async def _copy_lines(
        source: asyncio.StreamReader, sink: IO[bytes], text: bytes, found: asyncio.Future[None]
    ) -> None:
        # Chunks, not readline(): a line may be longer than the reader's limit.
        rest = b""
        while chunk := await source.read(65536):
            sink.write(chunk)
            sink.flush()
            if not found.done():
                rest += chunk
                if text in rest:
                    found.set_result(None)
                rest = rest[rest.rfind(b"\n") + 1 :]

    def tail(self, lines: int = 20) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    async def stop(self) -> int:
        """End the program (SIGTERM, then SIGKILL) and return its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), _GRACE_SECONDS)
            except TimeoutError:
                _log.warning("%s on %s did not stop on SIGTERM: killed", self.label, self.host)
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None
        assert self.process.returncode is not None
        return self.process.returncode
