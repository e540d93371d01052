"""Keeps the WWPF process running: mitmproxy and the key of the local CA, apart from the card and from media."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import logging
import sys

from imskit.tasks import spawn
from ue_agent.wwpf.config import WwpfConfig
from ue_agent.wwpf.service import WwpfService

_log = logging.getLogger(__name__)

READY_S = 30.0
"""Seconds within which a new process has to report that it listens."""
STOP_S = 5.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
"""Pauses before a restart, doubled each time, until a process was ready."""


_libc = ctypes.CDLL(None)
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER = 47, 3
_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13


def without_network_rights() -> None:
    """Keep what IPsec needs from a child that has no use for it; to be called between fork and exec."""
    for capability in (_CAP_NET_ADMIN, _CAP_NET_RAW):
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, capability, 0, 0)


class ChildError(Exception):
    """The WWPF process does not start; the text says why."""


class WwpfChild:
    """Starts the process, and starts it again when it ends by itself."""

    def __init__(self, config: WwpfConfig, service: WwpfService) -> None:
        self._config = dataclasses.replace(config, agent=service.socket)
        self._service = service
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start and wait until it listens; ChildError if it does not."""
        await self._launch()
        self._watching = spawn(self._watch(), "wwpf-child")

    async def stop(self) -> None:
        """End the process."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._end()

    async def restart(self) -> None:
        """Start a new process in place of the present one."""
        await self.stop()
        self._stopping = False
        await self.start()

    async def _launch(self) -> None:
        self._service.reported.clear()
        self._service.state = self._service.detail = ""
        # The configuration holds secrets: it goes over a pipe, not into arguments or environment.  The pipe stays
        # open; its end tells the child that we are gone.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ue_agent.wwpf",
            stdin=asyncio.subprocess.PIPE,
            preexec_fn=without_network_rights,
        )
        self._service.process = self._process.pid
        assert self._process.stdin is not None
        self._process.stdin.write(self._config.to_json().encode() + b"\n")
        ended = spawn(self._process.wait(), "wwpf-wait")
        reported = spawn(self._service.reported.wait(), "wwpf-ready")
        try:
            await asyncio.wait((ended, reported), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reported.cancel()
        if self._service.state != "ready":
            why = self._service.detail or (
                f"it ended with {self._process.returncode}" if ended.done() else "it did not get ready"
            )
            await self._end()
            raise ChildError(f"the web proxy (WWPF) does not start: {why}")
        _log.info("web proxy (WWPF) runs as process %d: %s", self._process.pid, self._service.detail)

    async def _watch(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping:
                return
            _log.error("web proxy (WWPF) ended with %s; it is started again", code)
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                try:
                    await self._launch()
                    break
                except (ChildError, OSError) as error:
                    _log.error("%s", error)
            pause = FIRST_PAUSE_S

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
