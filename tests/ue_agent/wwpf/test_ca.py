"""The device's own CA.  Requirement S7-WWPF."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ue_agent.wwpf import ca as module
from ue_agent.wwpf.ca import CERTIFICATE_FILE, KEY_FILE, LocalCa, load_or_create

DOMAINS = ("ims.example",)


def verify(ca: LocalCa, host: str, tmp_path: Path) -> str:
    """Let OpenSSL judge a certificate for ``host``, signed whatever the CA class says."""
    now = datetime.datetime.now(datetime.UTC)
    leaf = LocalCa(ca.certificate, ca.key, (*ca.domains, host)).leaf(host, now)
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "ca.pem").write_bytes(ca.certificate.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", host]
    command += ["-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "leaf.pem")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "verdict"),
    [
        ("portal.ims.example", ": OK"),
        ("ims.example", ": OK"),
        ("a.b.ims.example", ": OK"),
        ("other.example", "permitted subtree violation"),
        ("ims.example.evil.example", "permitted subtree violation"),
    ],
)
def test_openssl_accepts_it_for_the_operators_domains_only(tmp_path: Path, host: str, verdict: str) -> None:
    assert verdict in verify(load_or_create(tmp_path / "state", DOMAINS), host, tmp_path)


def test_ip_addresses_are_excluded(tmp_path: Path) -> None:
    ca = load_or_create(tmp_path / "state", DOMAINS)
    excluded = ca.certificate.extensions.get_extension_for_class(x509.NameConstraints).value.excluded_subtrees
    assert [str(name.value) for name in excluded or ()] == ["0.0.0.0/0", "::/0"]


def test_a_leaf_is_for_one_name_of_the_domain(tmp_path: Path) -> None:
    ca = load_or_create(tmp_path, DOMAINS)
    leaf = ca.leaf("Portal.ims.example")
    names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["portal.ims.example"]
    assert leaf.key.public_key() != ca.key.public_key()
    assert ca.leaf("portal.ims.example") is leaf
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    assert ca.leaf("portal.ims.example", later) is not leaf
    for host in ("other.example", "xims.example", "", "203.0.113.1"):
        with pytest.raises(ValueError, match="outside"):
            ca.leaf(host)


def test_it_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    state = tmp_path / "a" / "b"
    first = load_or_create(state, DOMAINS)
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in (state / CERTIFICATE_FILE).read_bytes()
    assert load_or_create(state, DOMAINS).certificate == first.certificate
    assert sorted(path.name for path in state.iterdir()) == sorted([KEY_FILE, CERTIFICATE_FILE])


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    load_or_create(tmp_path, DOMAINS)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["readable", "cut", "foreign", "domains", "old"])
def test_what_is_not_fit_is_replaced(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_or_create(tmp_path, DOMAINS)
    domains: tuple[str, ...] = DOMAINS
    if damage == "readable":
        (tmp_path / KEY_FILE).chmod(0o644)
    elif damage == "cut":
        (tmp_path / KEY_FILE).write_bytes((tmp_path / KEY_FILE).read_bytes()[:300])
    elif damage == "foreign":
        other = load_or_create(tmp_path / "other", DOMAINS)
        key = (tmp_path / KEY_FILE).read_bytes().partition(b"-----BEGIN CERT")[0]
        (tmp_path / KEY_FILE).write_bytes(key + other.certificate.public_bytes(serialization.Encoding.PEM))
        (tmp_path / KEY_FILE).chmod(0o600)
    elif damage == "domains":
        domains = ("ims.example", "second.example")
    else:
        monkeypatch.setattr(module, "RENEW_BEFORE", module.CA_LIFE)
    second = load_or_create(tmp_path, domains)
    assert second.certificate != first.certificate
    assert second.certificate.subject != first.certificate.subject
