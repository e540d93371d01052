"""The laptop's connection to the eP-CSCF, as a cable that can be cut and mended: its TCP only, media go elsewhere.

The laptop takes the name of the WebSocket for its own address (``/etc/hosts``, as a captive network would); what comes
there goes on to the edge octet for octet, TLS and all.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from imskit.tasks import spawn
from simulators.lab.lab import WEBSOCKET, Lab
from simulators.lab.topology import LAPTOP_WAN, OPERATOR_EDGE

_PORT = 443
_HOSTS = "127.0.0.1 localhost\n"
_RESET = struct.pack("ii", 1, 0)


class Cable:
    """Start it before the laptop's browser; ``mend()`` first."""

    def __init__(self, lab: Lab) -> None:
        self._host = lab.net.laptop
        self._host.write("/etc/hosts", f"{_HOSTS}{LAPTOP_WAN} {WEBSOCKET}\n")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        """How many there were so far."""

    async def mend(self) -> None:
        """Take connections."""
        sock = self._host.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LAPTOP_WAN, _PORT))
        self._server = await asyncio.start_server(self._serve, sock=sock)

    def reset(self) -> None:
        """Reset the connections that are there, on both sides; new ones are taken."""
        for writer in self._writers:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._writers.clear()

    def cut(self) -> None:
        """The same, and refuse new ones until ``mend()``."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def remove(self) -> None:
        """The laptop reaches the edge without it again."""
        self.cut()
        self._host.write("/etc/hosts", _HOSTS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = self._host.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (OPERATOR_EDGE, _PORT))
        except OSError:
            sock.close()
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(sock=sock)
        self.connections += 1
        self._writers |= {writer, far_writer}
        there = spawn(_pump(reader, far_writer), "cable to the edge")
        await _pump(far_reader, writer)
        there.cancel()
        self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
