"""Who holds the other end of a connection.  Requirement S7-WWPF (log-in for the browser only)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ue_agent.wwpf.config import Browser
from ue_agent.wwpf.owner import Owner, find_owner

PYTHON = str(Path(sys.executable).resolve())


@contextmanager
def connected(listen: str, connect: str, family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((listen, 0))
        listener.listen()
        client_family = socket.AF_INET6 if ":" in connect else socket.AF_INET
        with socket.socket(client_family, socket.SOCK_STREAM) as client:
            client.connect((connect, listener.getsockname()[1]))
            server, _ = listener.accept()
            with server:
                yield client, server


def ends(server: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return server.getpeername()[:2], server.getsockname()[:2]


@pytest.mark.parametrize(
    ("listen", "connect", "family"),
    [
        ("127.0.0.1", "127.0.0.1", socket.AF_INET),
        ("::1", "::1", socket.AF_INET6),
        ("127.0.0.1", "::ffff:127.0.0.1", socket.AF_INET),  # an IPv6 socket that speaks IPv4, as some programs do
    ],
)
def test_this_process(listen: str, connect: str, family: socket.AddressFamily) -> None:
    with connected(listen, connect, family) as (_, server):
        assert find_owner(*ends(server)) == Owner(os.geteuid(), (PYTHON,))


def test_another_program() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        command = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]}; read -r line"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as shell:
            server, _ = listener.accept()
            with server:
                owner = find_owner(*ends(server))
                assert owner is not None
                assert [Path(path).name for path in owner.executables] == ["bash"]
                assert not owner.is_one_of([Browser(PYTHON)])
            assert shell.stdin is not None
            shell.stdin.close()


def test_a_socket_shared_with_another_program_is_not_the_browsers_alone() -> None:
    with (
        connected("127.0.0.1", "127.0.0.1", socket.AF_INET) as (client, server),
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[client.fileno()]) as other,
    ):
        owner = find_owner(*ends(server))
        assert owner is not None
        assert len(owner.executables) == 2
        assert not owner.is_one_of([Browser(PYTHON)])
        assert other.stdin is not None
        other.stdin.close()


_MOVE_IN = """
set -e
mount --bind "$1" "$2"
[ "$3" = removed ] && rm "$1"
exec "$2" -c "exec 3<>/dev/tcp/127.0.0.1/$4; read -r line"
"""


@pytest.mark.parametrize("manner", ["there", "removed"])
def test_a_program_that_calls_itself_the_browser_in_a_mount_namespace_of_its_own(tmp_path: Path, manner: str) -> None:
    """Mounted over the browser, a program of anybody's has the browser's path in ``/proc/PID/exe``."""
    disguise = tmp_path / "disguise"
    shutil.copy("/bin/bash", disguise)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(10)
        port = str(listener.getsockname()[1])
        command = ["unshare", "-Urm", "bash", "-c", _MOVE_IN, "-", str(disguise), PYTHON, manner, port]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as impostor:
            try:
                server, _ = listener.accept()
            except TimeoutError:
                impostor.kill()
                pytest.skip("no user namespaces here")
            with server:
                assert Path(f"/proc/{impostor.pid}/exe").readlink().as_posix().startswith(PYTHON)
                owner = find_owner(*ends(server))
                assert owner is not None
                assert not owner.is_one_of([Browser(PYTHON)])
                assert "another file" in owner.stranger
            assert impostor.stdin is not None
            impostor.stdin.close()


def test_a_browser_that_was_updated_while_it_runs(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    shutil.copy("/bin/bash", browser)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        command = [browser, "-c", f"exec 3<>/dev/tcp/127.0.0.1/{listener.getsockname()[1]}; read -r line"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as running:
            server, _ = listener.accept()
            with server:
                browser.unlink()
                shutil.copy("/bin/cat", browser)
                assert find_owner(*ends(server)) == Owner(os.geteuid(), (str(browser),))
            assert running.stdin is not None
            running.stdin.close()


def test_nobody() -> None:
    with connected("127.0.0.1", "127.0.0.1", socket.AF_INET) as (client, server):
        where = ends(server)
        assert find_owner(("127.0.0.1", 1), where[1]) is None
        client.close()
        assert find_owner(*where) is None


def test_user_and_program_must_both_fit() -> None:
    owner = Owner(1000, ("/usr/lib/chromium/chromium",))
    assert owner.is_one_of([Browser("/usr/lib/chromium/chromium")])
    assert owner.is_one_of([Browser("/usr/bin/x"), Browser("/usr/lib/chromium/chromium", 1000)])
    assert not owner.is_one_of([Browser("/usr/lib/chromium/chromium", 1001)])
    assert not owner.is_one_of([])
    assert not Owner(1000, ()).is_one_of([Browser("/usr/lib/chromium/chromium")])


def test_the_log_says_why_somebody_is_a_stranger() -> None:
    assert Owner(1000, ("/usr/bin/curl",)).stranger == "/usr/bin/curl of user 1000: it is not a configured browser"
    assert "CAP_SYS_PTRACE" in Owner(1000, ()).stranger
