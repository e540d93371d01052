"""Sockets of programs: addresses in configurations, ports that are free, control sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

type Address = tuple[str, int]

_ATTEMPTS = 20


def parse_address(text: str) -> Address:
    """Read ``ADDR:PORT`` (IPv6 in brackets); ``ValueError`` says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no ADDR:PORT, such as 10.45.0.1:5060")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return str(ip_address(host)), int(port)
    except ValueError:
        raise ValueError(f"{text!r}: {host!r} is no IP address") from None


def definite(address: Address) -> Address:
    """Return ``address`` with a real port: where it is 0, one that is free for UDP and for TCP.

    ``OSError`` if the address is not this machine's.
    """
    host, port = address
    if port:
        return address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(_ATTEMPTS):
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams, socket.socket(family) as streams:
            datagrams.bind((host, 0))
            port = datagrams.getsockname()[1]
            try:
                streams.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            return host, port
    raise OSError(errno.EADDRINUSE, f"no port of {host} is free for UDP and TCP")


@asynccontextmanager
async def unix_socket(application: web.Application, path: Path) -> AsyncIterator[None]:
    """Serve HTTP on a Unix socket that only its owner may open (mode 0600).

    A socket left there by a program that has ended is replaced; ``OSError`` if one still listens, or the path is taken
    by something else.
    """
    _take_place_of_dead(path)
    listener = socket.socket(socket.AF_UNIX)
    # bind() takes the mode over, so that at no moment another user may connect.
    os.fchmod(listener.fileno(), 0o600)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{path}: {error.strerror}") from error
    runner = web.AppRunner(application, access_log=None, handle_signals=False)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # an instant
        await runner.cleanup()


def _take_place_of_dead(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"{path} is there and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # too busy to answer, or another user's: somebody's all the same
    raise OSError(errno.EADDRINUSE, f"another program listens at {path}")
