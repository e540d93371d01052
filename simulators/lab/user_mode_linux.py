"""A guest kernel for what this machine's own may lack (ESP, netem): user-mode Linux, an ordinary process.

``run()`` boots Debian's ``linux.uml`` on this machine's own files (hostfs), runs one command in it as root, brings back
its output and exit code, and leaves no process and no file behind.  Guests share nothing but the disk, so several may
run at once.  A guest has one CPU, a network of its own, and is up in about two seconds.

    python -m simulators.lab.user_mode_linux -- ip xfrm state
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulators.lab.world import LabError

_SHIM_SOURCE = Path(__file__).with_name("uml_ptrace.c")
_MODULE_TREE = Path("/usr/lib/uml/modules")
_MODULES = ("xfrm_user", "esp4", "esp6", "tun", "veth", "sch_netem")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_SECONDS = 60.0
_NEEDS = {
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "gcc": "gcc",
    "ip": "iproute2",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


_running: set[int] = set()
_stopped = threading.Event()


class GuestError(LabError):
    """The guest could not be started, died, or did not finish in time; the text ends with its console."""


@dataclass(frozen=True)
class Finished:
    """How a command in a guest ended."""

    exit_code: int
    output: str
    """Standard output and standard error of the command, in the order written."""
    console: str
    """What the guest's kernel said."""
    seconds: float
    """From before the boot to after the power-off, on this machine's clock."""


def missing() -> str | None:
    """Say why no guest can run on this machine and what to do about it; ``None`` if one can."""
    packages = [package for program, package in _NEEDS.items() if _program(program) is None]
    if not packages and not _MODULE_TREE.is_dir():
        packages = ["user-mode-linux"]
    if packages:
        return (
            f"{', '.join(packages)} not installed (scripts/setup test installs what the distribution has; "
            "user-mode-linux is Debian's, for amd64)"
        )
    return None


def in_guest() -> bool:
    """Whether this process runs in a guest."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


def run(
    argv: Sequence[str],
    *,
    within: float,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    memory_mb: int = 512,
) -> Finished:
    """Boot a guest, run ``argv`` in it, power it off.

    ``within``: seconds for the command; the boot has its own allowance.  ``directory``: where the command starts
    (default: here).  ``environment`` is added to this process's own.  ``GuestError`` if the guest does not deliver.
    """
    if (reason := missing()) is not None:
        raise GuestError(f"no guest kernel: {reason}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="uml-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        _compile_shim(work)
        _write_guest_files(work, argv, directory or Path.cwd(), environment or {})
        ended = _boot(work, memory_mb, within)
        output = _text(work / "output")
        console = _text(work / "console")
        code = _text(work / "code").strip()
    if not ended or not code:
        what = f"did not finish in {within:.0f} s and was killed" if not ended else "died (no exit code was left)"
        raise GuestError(f"the guest {what}.\n--- output\n{_tail(output)}\n--- console\n{_tail(console)}")
    return Finished(int(code), output, console, time.monotonic() - started)


def _compile_shim(work: Path) -> None:
    argv = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(work / "shim.so"), str(_SHIM_SOURCE), "-ldl"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GuestError(f"gcc cannot build {_SHIM_SOURCE.name}: {done.stderr.strip()}")


def _write_guest_files(work: Path, argv: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
    quoted = shlex.quote
    modules = work / "modules/lib"
    modules.mkdir(parents=True)
    (modules / "modules").symlink_to(_MODULE_TREE)
    load = f"{_program('modprobe')} -d {quoted(str(work / 'modules'))}"
    # The guest's kernel loads modules (ciphers) by itself too: it must look in its own tree, not in the machine's.
    _script(work / "modprobe", f'exec {load} "$@"')
    exports = {
        **environment,
        "TMPDIR": str(work / "tmp"),
        "HOME": str(work / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    (work / "tmp").mkdir()
    _script(
        work / "init",
        f"export PATH={quoted(os.environ.get('PATH', ''))}:{_SYSTEM_PATH}",
        "mount -t proc proc /proc",
        "mount -t sysfs sysfs /sys",
        "[ -c /dev/null ] || mount -t devtmpfs dev /dev",
        "mkdir -p /dev/shm /dev/pts /dev/net",
        "mount -t tmpfs tmpfs /dev/shm",
        "mount -t devpts devpts /dev/pts",
        "mount -t tmpfs tmpfs /run",
        f"mount -t tmpfs tmpfs {quoted(str(work / 'tmp'))}",
        "ip link set lo up",
        f"echo {quoted(str(work / 'modprobe'))} >/proc/sys/kernel/modprobe",
        f"{load} -a {' '.join(_MODULES)}",
        "[ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200",
        *(f"export {name}={quoted(value)}" for name, value in exports.items()),
        f"cd {quoted(str(directory))}",
        f"{shlex.join(argv)} >{quoted(str(work / 'output'))} 2>&1 </dev/null; code=$?",
        # Written elsewhere and renamed: a guest that dies meanwhile leaves no half a number.
        f"cd {quoted(str(work))} && echo $code >code.new && mv code.new code",
        "echo o >/proc/sysrq-trigger",
        "while :; do sleep 1; done",  # init must not end: that is a panic
    )


def _boot(work: Path, memory_mb: int, within: float) -> bool:
    """Run the guest to its end; ``False`` if it had to be killed."""
    # In a process namespace of its own (where one may be made) even the death of this process leaves nothing behind.
    apart = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        apart = []
    argv = [
        *("setpriv", "--pdeathsig", "KILL"),
        *apart,
        str(_program("linux.uml")),
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
        f"init={work / 'init'}",
        f"mem={memory_mb}M",
        f"uml_dir={work}/",
        "umid=guest",
        "con=null",
        "con0=null,fd:1",
        "con1=null",
        "quiet",
        "loglevel=3",
        "panic=-1",
    ]
    environment = {"PATH": _SYSTEM_PATH, "LD_PRELOAD": str(work / "shim.so"), "HOME": str(work)}
    environment["TMPDIR"] = str(_memory_folder(memory_mb) or work)
    with (work / "console").open("wb") as console:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    _running.add(process.pid)
    try:
        if _stopped.is_set():
            return False
        process.wait(_BOOT_SECONDS + within)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        _kill(process.pid)
        process.wait()
        _running.discard(process.pid)


def stop_all() -> None:
    """Kill the guests of this process's other threads, now and to come; their ``run()`` ends with ``GuestError``."""
    _stopped.set()
    for pid in list(_running):
        _kill(pid)


def _kill(pid: int) -> None:
    # The guest's processes are processes of this session; none outlives it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _memory_folder(memory_mb: int) -> Path | None:
    """Where the file that is the guest's memory may lie: a memory file system with room and leave to execute."""
    shared = Path("/dev/shm")
    with contextlib.suppress(OSError):
        state = os.statvfs(shared)
        room = state.f_bavail * state.f_frsize > memory_mb * 1024 * 1024
        if room and not state.f_flag & os.ST_NOEXEC and os.access(shared, os.W_OK):
            return shared
    return None


def _script(path: Path, *lines: str) -> None:
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def _text(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


def _tail(text: str, lines: int = 60) -> str:
    return "\n".join(text.splitlines()[-lines:])


def main() -> int:
    """Run the command given after ``--`` in a guest; its exit code is this program's."""
    parser = argparse.ArgumentParser(prog="user_mode_linux", description="Run a command under a kernel of its own.")
    parser.add_argument("--within", type=float, default=300.0, help="seconds for the command (default: 300)")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        done = run(arguments.command, within=arguments.within)
    except GuestError as error:
        print(error, file=sys.stderr)
        return 125
    sys.stdout.write(done.output)
    return done.exit_code


if __name__ == "__main__":
    sys.exit(main())
