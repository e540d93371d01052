"""The lab's private world: network and mount namespaces that leave the machine untouched.

``enter()`` moves the calling (single-threaded) process into namespaces of its own: a mount namespace, a network
namespace and, where it is not root, a user namespace in which it is.  Everything that the lab makes afterwards
(links, addresses, mounts) lives there and is gone with the last process in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import subprocess
from pathlib import Path

_log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_SIGTERM = 15
_NICE = -10
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab cannot be built on this machine; the text says why and what to do."""


def enter() -> None:
    """Move this process into fresh namespaces; raise ``LabError`` where the kernel refuses.

    Must be called while the process has one thread.  The lab's programs then run before other programs of the machine,
    where this may be: speech does not wait, and what is measured is the lab.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    uid, gid = os.getuid(), os.getgid()
    flags = os.CLONE_NEWNS | os.CLONE_NEWNET
    if uid != 0:
        flags |= os.CLONE_NEWUSER
    try:
        os.unshare(flags)
    except OSError as error:
        raise LabError(
            f"this kernel does not let uid {uid} make namespaces ({error.strerror}). Run the command with sudo, or "
            "allow it: sysctl kernel.unprivileged_userns_clone=1 (Debian), "
            "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)."
        ) from error
    try:
        if uid != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        command("mount", "--make-rprivate", "/")
        command("ip", "link", "set", "lo", "up")
    except (OSError, LabError) as error:
        raise LabError(f"the namespaces were made but could not be set up: {error}. Run it with sudo.") from error


def command(*argv: str) -> str:
    """Run a system command and return its output; ``LabError`` with what it said if it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed: run scripts/setup") from error
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies; for a child between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGTERM, 0, 0, 0)
