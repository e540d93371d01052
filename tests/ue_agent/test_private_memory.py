"""What a program of the same user gets of the agent's processes [S7-SEC]."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NOBODY = 65534
_HOLDER = """
import ctypes, os, sys
from ue_agent.private_memory import keep_private
os.setresuid(*3 * [int(sys.argv[1])])
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after exec: a change of user alone makes a process private
if sys.argv[2] == "private":
    keep_private()
print("ready", flush=True)
sys.stdin.read()
"""
_READ = """
import os, sys
os.setresuid(*3 * [int(sys.argv[1])])
for name in ("environ", "mem", "maps"):
    try:
        with open(f"/proc/{sys.argv[2]}/{name}", "rb"):
            print(name)
    except PermissionError:
        pass
"""


@contextmanager
def holder(user: int, manner: str) -> Iterator[int]:
    """A program of ``user`` that waits."""
    command = [sys.executable, "-c", _HOLDER, str(user), manner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.stdin.close()


def seen(pid: int, user: int) -> set[str]:
    """What another program of ``user`` can open of a process."""
    command = [sys.executable, "-c", _READ, str(user), str(pid)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_a_program_of_the_same_user_reads_no_memory() -> None:
    """With /proc/PID/mem goes ptrace, and pidfd_getfd: the kernel asks the same question for all of them."""
    user = os.getuid() or _NOBODY  # root may read everything
    with holder(user, "open") as open_book:
        assert "environ" in seen(open_book, user), "the attack works where nothing is done against it"
    with holder(user, "private") as closed:
        assert seen(closed, user) == set()
