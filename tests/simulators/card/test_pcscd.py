"""A private daemon: starts, is found, leaves nothing behind."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from simulators.card import pcscd
from simulators.card.pcscd import PcscdError, PrivatePcscd, environment, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"NO SMART-CARD TESTS: {missing()}")


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_two_at_once_and_nothing_is_left() -> None:
    before = set(Path("/run").iterdir())
    with PrivatePcscd() as one, PrivatePcscd("OTHER") as other:
        assert connects(one.socket)
        assert connects(other.socket)
        assert one.pid != other.pid
        assert not set(one.ports) & set(other.ports)
        assert other.readers == ("OTHER 00 00", "OTHER 00 01")
        assert environment(one) == {"PCSCLITE_CSOCK_NAME": f"/proc/{one.pid}/root/run/pcscd/pcscd.comm"}
        pid, ports, path = one.pid, one.ports, one.socket
    assert set(Path("/run").iterdir()) == before
    assert not connects(path)
    assert not any(listens(port) for port in ports)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(PcscdError, match="not running"):
        _ = one.pid


def test_in_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a user who is not root."""
    probe = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip(f"USER NAMESPACES ARE NOT ALLOWED HERE: {probe.stderr.decode().strip()}")
    monkeypatch.setattr(pcscd, "_may_mount", lambda: False)
    with PrivatePcscd() as daemon:
        assert connects(daemon.socket)


def test_a_taken_port_costs_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        real = pcscd._free_pair_of_ports
        offered = iter([taken.getsockname()[1], real()])
        monkeypatch.setattr(pcscd, "_free_pair_of_ports", lambda: next(offered))
        monkeypatch.setattr(pcscd, "_START_TIMEOUT", 0.5)
        with PrivatePcscd() as daemon:
            assert daemon.ports[0] != taken.getsockname()[1]


def test_a_daemon_that_ends_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcscd, "_SCRIPT", "echo no luck >&2; exit 3")
    with pytest.raises(PcscdError, match="ended with 3: no luck"):
        PrivatePcscd().start()


def test_it_ends_with_its_parent() -> None:
    """Even a killed parent leaves no daemon."""
    script = (
        "import sys, time; from simulators.card.pcscd import PrivatePcscd\n"
        "daemon = PrivatePcscd(); daemon.start(); print(daemon.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdin is not None
    with parent.stdout, parent.stdin:
        pid = int(parent.stdout.readline())
        daemon = os.pidfd_open(pid)
        parent.kill()
        parent.wait()
        try:
            assert select.select([daemon], [], [], 5.0)[0], "the daemon is still there"
        finally:
            if not select.select([daemon], [], [], 0)[0]:
                signal.pidfd_send_signal(daemon, signal.SIGKILL)
            os.close(daemon)
