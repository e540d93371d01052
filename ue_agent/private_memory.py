"""Keeps what a process holds in memory from other programs of the same user."""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """Let nobody but root read this process's memory or take its open sockets, and leave no core dump (prctl(2)).

    Otherwise a debugger of the same user reaches PIN, keys and card. A program started from here begins anew without.
    ``OSError`` if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
