"""BIND's dig against the DNS proxy, run as a program.  Requirement S7-DNS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

pytestmark = pytest.mark.interop

_BIG = "\n".join(f'big 60 IN TXT "{"x" * 200}{n}"' for n in range(30))
ZONES = f"""\
[zones]
"ims.example" = '''
portal 60 IN A 203.0.113.10
portal 60 IN HTTPS 1 . alpn="h3,h2"
{_BIG}
'''
"other.example" = '''
www 60 IN HTTPS 1 . alpn="h3,h2"
'''
"""


@contextmanager
def program(package: str, *arguments: str) -> Iterator[int]:
    """Run a command of ours and yield the port of its ready line."""
    code = (
        "import argparse, sys\n"
        f"from {package} import command\n"
        "parser = argparse.ArgumentParser()\n"
        "command.register(parser.add_subparsers())\n"
        "arguments = parser.parse_args()\n"
        "sys.exit(arguments.run(arguments))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "dns", "run", *arguments], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if ready := re.match(r"ready: .*:(\d+)$", line):
                yield int(ready[1])
                break
        else:
            raise AssertionError("not ready")
    finally:
        process.send_signal(signal.SIGTERM)
        process.stderr.close()
        assert process.wait(10) == 0


@dataclass
class Dig:
    port: int

    def __call__(self, *arguments: str) -> str:
        command = ["dig", "-r", "@127.0.0.1", "-p", str(self.port), "+tries=1", "+time=6", *arguments]
        environment = os.environ | {"LC_ALL": "C"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture(scope="module")
def dig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dig]:
    zones = tmp_path_factory.mktemp("dns") / "zones.toml"
    zones.write_text(ZONES)
    with (
        program("simulators.operator_dns", "--listen", "127.0.0.1:0", "--zones", str(zones)) as upstream,
        program(
            "ue_agent.dns_proxy",
            *("--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{upstream}", "--operator-domain", "ims.example"),
            *("--answer", "turn.ims.example=10.99.0.1", "--answer", "turn.ims.example=2001:db8::7"),
            *("--answer", "stun.ims.example=10.99.0.1"),
        ) as port,
    ):
        yield Dig(port)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("edns", ["+noedns", "+edns=0"])
def test_addresses(dig: Dig, transport: str, edns: str) -> None:
    assert dig("+short", transport, edns, "turn.ims.example", "A") == "10.99.0.1\n"
    assert dig("+short", transport, edns, "TURN.ims.example", "AAAA") == "2001:db8::7\n"
    assert dig("+short", transport, edns, "portal.ims.example", "A") == "203.0.113.10\n"


def test_no_address_of_that_family(dig: Dig) -> None:
    answer = dig("stun.ims.example", "AAAA")
    assert "status: NOERROR" in answer
    assert "ANSWER: 0, AUTHORITY: 1" in answer


def test_the_canary(dig: Dig) -> None:
    assert "status: NXDOMAIN" in dig("use-application-dns.net")


def test_edns_goes_through_and_back(dig: Dig) -> None:
    assert "status: BADVERS" in dig("+edns=1", "+noednsneg", "portal.ims.example")  # the operator's own answer
    assert "OPT PSEUDOSECTION" in dig("+edns=0", "+ednsopt=65001:cafe", "portal.ims.example")
    assert "OPT PSEUDOSECTION" not in dig("+noedns", "portal.ims.example")


def test_truncation(dig: Dig) -> None:
    assert re.search(r"flags: qr[ a-z]* tc[ ;]", dig("+ignore", "big.ims.example", "TXT"))
    assert len(dig("+short", "big.ims.example", "TXT").splitlines()) == 30  # dig itself turns to TCP


def test_several_queries_on_one_connection(dig: Dig) -> None:
    answer = dig("+tcp", "+keepopen", "+short", "turn.ims.example", "+tcp", "+keepopen", "+short", "portal.ims.example")
    assert answer.split() == ["10.99.0.1", "203.0.113.10"]


def test_http3_hints(dig: Dig) -> None:
    assert dig("+short", "portal.ims.example", "HTTPS") == '1 . alpn="h2"\n'
    assert dig("+short", "www.other.example", "HTTPS") == '1 . alpn="h3,h2"\n'


def test_the_second_answer_is_the_first_one_grown_old(dig: Dig) -> None:
    first = dig("+nocookie", "+noall", "+answer", "portal.ims.example")
    second = dig("+nocookie", "+noall", "+answer", "portal.ims.example")
    assert 0 < int(second.split()[1]) <= int(first.split()[1]) <= 60


def test_broken_questions(dig: Dig) -> None:
    assert "status: NOTIMP" in dig("+opcode=UPDATE", "+header-only")
    assert "status: FORMERR" in dig("+header-only", "portal.ims.example")


def test_extended_error() -> None:
    with program("ue_agent.dns_proxy", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:9") as port:
        answer = Dig(port)("portal.ims.example")
    assert "status: SERVFAIL" in answer
    assert "EDE: 22 (No Reachable Authority)" in answer
