"""The self-signed certificate: for these names only, made once, renewed in time, its key for the owner only."""

from __future__ import annotations

import asyncio
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from network_edge.certificate import CertificateError, ensure_certificate, fingerprint

NAMES = ["phone.example", "203.0.113.11", "2001:db8::1"]


def test_made_once_and_anew_for_another_name(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    assert ensure_certificate(certificate, key, NAMES)
    first = certificate.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not ensure_certificate(certificate, key, NAMES) and not ensure_certificate(certificate, key, NAMES[:1])
    assert certificate.read_bytes() == first
    assert ensure_certificate(certificate, key, [*NAMES, "ws.example"])
    assert certificate.read_bytes() != first
    assert len(fingerprint(certificate)) == 32 * 3 - 1


def test_it_vouches_for_its_own_names_only(tmp_path: Path) -> None:
    """RFC 5280 section 4.2.1.10: a browser that trusts it as an authority takes nothing else from it."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    ensure_certificate(certificate, key, NAMES)
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    permitted = found.extensions.get_extension_for_class(x509.NameConstraints)
    assert permitted.critical and permitted.value.permitted_subtrees is not None
    assert len(permitted.value.permitted_subtrees) == len(NAMES)
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize("name", NAMES)
async def test_openssl_trusts_it_for_each_name(tmp_path: Path, name: str) -> None:
    """With the strict checks of Python's default context."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    ensure_certificate(certificate, key, NAMES)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        trust = ssl.create_default_context(cafile=certificate)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="other.example")


def test_what_is_no_certificate_is_left_alone(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_text("somebody's notes")
    key.write_text("more")
    with pytest.raises(CertificateError, match="Remove it"):
        ensure_certificate(certificate, key, NAMES)
    assert certificate.read_text() == "somebody's notes"
    with pytest.raises(CertificateError):
        ensure_certificate(tmp_path / "nowhere/c.pem", tmp_path / "nowhere/k.pem", NAMES)
