"""Mw over TLS on real sockets (TS 33.210): both sides show a certificate, and nobody else's is believed."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from imskit.sip.wire.message import Request, parse_message, response_to
from network_edge.ep_cscf.config import EpCscfConfig, MwConfig
from network_edge.ep_cscf.server import EpCscfServer

HOME = "ims.example"


class Authority:
    """Issues certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        own = self._certificate(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key, for either side of a connection."""
        key = ec.generate_private_key(ec.SECP256R1())
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = self._certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        signed = made.add_extension(addresses, False).add_extension(uses, False).sign(self._key, hashes.SHA256())
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return files


class TlsCore:
    """A core that takes connections from who has a certificate of ``believed``, and refuses each registration."""

    def __init__(self, files: tuple[Path, Path], believed: Authority) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # With 1.3 a client learns only after the handshake that its certificate was refused.
        self._context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(*files)
        self._context.load_verify_locations(believed.file)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self.requests: list[Request] = []
        self.names: list[str] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = writer.get_extra_info("peercert")["subject"]
        self.names.append(dict(part[0] for part in subject)["commonName"])
        try:
            while True:
                request = parse_message(await reader.readuntil(b"\r\n\r\n"))
                assert isinstance(request, Request)
                self.requests.append(request)
                writer.write(response_to(request, 403).encode())
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for server in made.servers:
        await server.close()
    for core in made.cores:
        core.close()


class Lab:
    """Two authorities, the operator's and somebody's, and what is started with their certificates."""

    def __init__(self, folder: Path) -> None:
        self.operator, self.somebody = (Authority(folder, name) for name in ("operator", "somebody"))
        self.servers: list[EpCscfServer] = []
        self.cores: list[TlsCore] = []

    async def core(self, authority: Authority) -> TlsCore:
        self.cores.append(TlsCore(authority.issue("core"), self.operator))
        await self.cores[-1].start()
        return self.cores[-1]

    async def edge(self, core: TlsCore, authority: Authority) -> EpCscfServer:
        certificate, key = authority.issue("edge")
        place = f"127.0.0.1:{core.port}"
        mw = MwConfig("127.0.0.1:0", place, "tls", certificate=certificate, key=key, ca=self.operator.file)
        config = EpCscfConfig(HOME, mw, wss=[], ws=["127.0.0.1:0"], without_origin=True, reg_event=False)
        self.servers.append(EpCscfServer(config, gateway=NoGateway()))
        await self.servers[-1].start()
        return self.servers[-1]


class NoGateway:
    """No calls are made here."""

    on_media_lost: Any = None
    draining = False


async def registered(edge: EpCscfServer, make_phone: Any) -> int:
    """The status that a client's REGISTER comes to."""
    host, port = edge.ws[0]
    async with connect(f"ws://{host}:{port}/", subprotocols=[Subprotocol("sip")]) as connection:
        phone = make_phone(connection)
        await phone.register()
        status: int = (await phone.response()).status
        return status


async def test_both_show_a_certificate(lab: Lab, make_phone: Any) -> None:
    core = await lab.core(lab.operator)
    edge = await lab.edge(core, lab.operator)
    assert await registered(edge, make_phone) == 403
    assert core.names == ["edge"] and [request.method for request in core.requests] == ["REGISTER"]
    assert str(core.requests[0].headers.get("Via")).startswith("SIP/2.0/TLS ")


@pytest.mark.parametrize("stranger", ["core", "edge"])
async def test_a_certificate_of_another_authority_is_refused(lab: Lab, make_phone: Any, stranger: str) -> None:
    """Whose ever it is: no request passes, and the client is told."""
    core = await lab.core(lab.somebody if stranger == "core" else lab.operator)
    edge = await lab.edge(core, lab.somebody if stranger == "edge" else lab.operator)
    assert await registered(edge, make_phone) in (408, 500, 503, 504)
    assert core.requests == []


@pytest.mark.parametrize("shows", ["the operator's", "somebody's", "none"])
async def test_who_comes_to_mw_shows_a_certificate_too(lab: Lab, shows: str) -> None:
    """A request is answered only for a certificate of the operator's authority."""
    edge = await lab.edge(await lab.core(lab.operator), lab.operator)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(lab.operator.file)
    if shows != "none":
        context.load_cert_chain(*(lab.operator if shows == "the operator's" else lab.somebody).issue("visitor"))
    host, port = edge.mw
    request = (
        f"OPTIONS sip:{host}:{port} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
        "From: <sip:core@ims.example>;tag=1\r\nTo: <sip:edge@ims.example>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    answer = b""
    try:
        writer.write(request.encode())
        async with asyncio.timeout(20):
            answer = await reader.read(4096)
        writer.close()
    except (ssl.SSLError, ConnectionError) as error:
        assert shows != "the operator's", error
    assert answer.startswith(b"SIP/2.0 200") if shows == "the operator's" else answer == b""
