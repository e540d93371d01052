"""Sockets that hear only what comes in through one interface, such as ``lo``: nobody outside the device.

An address on an interface of this device is reachable from every network that the device is on: Linux answers for it
whichever way a packet came (RFC 1122 section 3.3.4.2, weak host).  ``SO_BINDTODEVICE`` would bar the others, but also
bends the way back: with ``lo`` an IPv6 answer to another of the device's own addresses finds no route.  A socket
filter looks at arriving packets only, and on UDP needs no privilege.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

# <linux/filter.h>; the socket module has no names for these.
_SO_ATTACH_FILTER = 26
_SO_LOCK_FILTER = 44
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_INTERFACE_INDEX = 0xFFFFF000 + 8  # SKF_AD_OFF + SKF_AD_IFINDEX
_ALL, _NOTHING = 0xFFFFFFFF, 0
_INSTRUCTION = struct.Struct("HBBI")


def hear_only(sock: socket.socket, device: str) -> None:
    """Let ``sock`` get only what arrives through ``device``; before ``bind``, so that nothing slips in.

    Holds for a listening TCP socket and its connections too.  What comes another way is dropped in silence, or refused
    where the kernel wants CAP_NET_ADMIN for a filter on TCP (recent ones do) and the socket is bound to the device.
    `OSError` if there is no such interface, or where the system cannot do it (it is Linux's).
    """
    if sys.platform != "linux":
        raise OSError(f"sockets cannot be limited to {device} on this system")
    try:
        index = socket.if_nametoindex(device)
    except OSError as error:
        raise OSError(error.errno, f"there is no interface {device}") from error
    program = [
        (_LOAD_WORD, 0, 0, _INTERFACE_INDEX),
        (_JUMP_EQUAL, 0, 1, index),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, _NOTHING),
    ]
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))
    except PermissionError:
        if sock.type != socket.SOCK_STREAM:
            raise
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        return
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
