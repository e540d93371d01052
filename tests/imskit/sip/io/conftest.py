"""Receivers, certificates and a small name server for the transport tests."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from imskit.sip.io.transport import Limits, Transports
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import Flow


class Recorder:
    """A `Receiver` whose findings can be awaited."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[bytes, Flow]] = asyncio.Queue()
        self.faults: asyncio.Queue[tuple[bytes, SipParseError, Flow]] = asyncio.Queue()
        self.ends: asyncio.Queue[tuple[Flow, str]] = asyncio.Queue()

    def received(self, data: bytes, flow: Flow) -> None:
        self.messages.put_nowait((data, flow))

    def malformed(self, head: bytes, error: SipParseError, flow: Flow) -> None:
        self.faults.put_nowait((head, error, flow))

    def closed(self, flow: Flow, reason: str) -> None:
        self.ends.put_nowait((flow, reason))


type MakeSide = Callable[..., tuple[Transports, Recorder]]


@pytest.fixture
async def make_side() -> AsyncIterator[MakeSide]:
    """Make transports with a recorder; they are closed at the end."""
    made: list[Transports] = []

    def make(*, tls: ssl.SSLContext | None = None, **limits: Any) -> tuple[Transports, Recorder]:
        recorder = Recorder()
        transports = Transports(recorder, client_tls=tls, limits=Limits(**limits))
        made.append(transports)
        return transports, recorder

    yield make
    for transports in made:
        await transports.close()


@pytest.fixture(scope="session")
def tls_contexts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    """A server's and a client's context for ``sip.example`` and the loopback addresses."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sip.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("sip.example"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    x509.IPAddress(ipaddress.ip_address("::1")),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cafile=str(path))
    yield server, client
