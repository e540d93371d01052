"""Gm security from the configuration: policy, back end, TLS, and what status and doctor say [S7-IMS]."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imsbridge.doctor.agent import _gm_security
from imskit.config.model import ConfigError, parse
from imskit.ims.security_agreement import Protection
from imskit.ipsec.algorithms import STANDARD_PAIRS
from ue_agent.command import _gm_security as in_words
from ue_agent.command import _wanted_security
from ue_agent.config import ImsConfig
from ue_agent.gm_security.protection import GmProtection


def config(text: str = "") -> ImsConfig:
    return parse(ImsConfig, 'address = "10.45.0.2"\n' + text)


def test_the_default_is_what_a_phone_does() -> None:
    """IR.92 2.2.1: a security agreement, with every pair of the standard."""
    policy = GmProtection(config()).policy
    assert policy.protection is Protection.IPSEC
    assert policy.pairs == STANDARD_PAIRS
    assert policy.modes() == ("trans",)
    assert GmProtection(config("nat = true")).policy.modes() == ("trans", "UDP-enc-tun")
    assert _wanted_security(config()).startswith("IPsec, back end auto: null/aes-gcm")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('algorithms = ["rot13/null"]', "is no pair of IPsec algorithms"),
        ('algorithms = ["aes-gmac/aes-cbc"]', "does not go with"),
        ("algorithms = []", "at least one pair"),
        ('algorithms = ["hmac-md5-96/null"]', "lab_algorithms = true"),
        ('algorithms = ["hmac-sha-1-96/des-ede3-cbc"]', "lab_algorithms = true"),
        ("dscp_media = 64", "0 to 63"),
        ('security = "ipsek"', "must be one of"),
        ('backend = "hardware"', "must be one of"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(text)


def test_removed_algorithms_behind_the_switch() -> None:
    pairs = GmProtection(config('lab_algorithms = true\nalgorithms = ["hmac-md5-96/des-ede3-cbc"]')).policy.pairs
    assert [str(pair) for pair in pairs] == ["hmac-md5-96/des-ede3-cbc"]


async def test_nothing_is_opened_where_nothing_is_wanted() -> None:
    for text in ('security = "off"', 'security = "tls"'):
        protection = GmProtection(config(text))
        assert await protection.backend() is None
        await protection.close()


def test_authorities_for_tls(tmp_path: Path) -> None:
    assert GmProtection(config('security = "off"')).client_tls() is None
    missing = config(f'security = "tls"\ntrust = "{tmp_path / "none.pem"}"')
    with pytest.raises(OSError):
        GmProtection(missing).client_tls()
    finding = _gm_security(missing)
    assert (finding.verdict, finding.what) == ("bad", "Gm security")
    assert "PEM" in finding.cure


@pytest.mark.parametrize(
    ("gm", "ok", "words"),
    [
        ({"wanted": "off", "agreed": "", "sets": []}, True, "in clear"),
        ({"wanted": "tls", "agreed": "TLS", "sets": []}, True, "TLS"),
        ({"wanted": "tls", "agreed": "", "sets": []}, False, "not registered"),
        (
            {"wanted": "ipsec", "agreed": "", "sets": [], "backend": None, "why": "no IPsec on this machine"},
            False,
            "no IPsec on this machine",
        ),
        (
            {
                "wanted": "ipsec",
                "agreed": "IPsec null/aes-gcm",
                "backend": "userspace",
                "why": "no ESP",
                "sets": [{"ports": "1->2, 3->4", "packets_out": 5, "packets_in": 6}],
            },
            True,
            "IPsec null/aes-gcm by the userspace back end (no ESP): 1->2, 3->4, 5 out, 6 in",
        ),
    ],
)
def test_words_of_the_status(gm: dict[str, Any], ok: bool, words: str) -> None:
    said, text = in_words(gm)
    assert said is ok
    assert words in text


def test_doctor_says_what_is_missing() -> None:
    """Without the right the finding is bad and names it and the cure; with it the back end and why it was taken."""
    program = (
        "from imsbridge.doctor.agent import _gm_security\n"
        "from ue_agent.config import ImsConfig\n"
        "print(_gm_security(ImsConfig(address='10.45.0.2')))\n"
    )

    def run(*wrapper: str) -> str:
        return subprocess.run(
            [*wrapper, sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout

    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    said = run(*unprivileged)
    assert "verdict='bad'" in said
    assert "CAP_NET_ADMIN" in said
    namespaces = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode == 0:
        said = run(*namespaces)
        assert "verdict='ok'" in said, said
        assert "back end" in said
