"""The device's own certification authority: made on first start, able to sign for the operator's domains only.

Name constraints (RFC 5280 section 4.2.1.10) permit the operator's domains and exclude every IP address, so a browser
that trusts this CA trusts it for nothing else, even if the key were stolen.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_log = logging.getLogger(__name__)

CA_LIFE = datetime.timedelta(days=5 * 365)
RENEW_BEFORE = datetime.timedelta(days=60)
"""A CA that ends sooner than this is replaced at the next start."""
LEAF_LIFE = datetime.timedelta(days=7)
_LEAF_USE = datetime.timedelta(days=1)
_SKEW = datetime.timedelta(hours=1)
_KEPT_LEAVES = 100

KEY_FILE = "ca-key.pem"
"""Key and certificate together, mode 0600: replaced as one."""
CERTIFICATE_FILE = "ca.pem"
"""The certificate alone, for whoever installs it."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A host's certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(slots=True)
class LocalCa:
    """The CA, and the certificates it has signed since the program started."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    domains: tuple[str, ...]
    _leaf_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    _leaves: dict[str, Leaf] = field(default_factory=dict)

    @property
    def der(self) -> bytes:
        """The certificate, DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def leaf(self, host: str, now: datetime.datetime | None = None) -> Leaf:
        """Return a certificate for ``host`` alone; ValueError for a host outside the CA's domains."""
        host = host.lower()
        if not any(host == domain or host.endswith("." + domain) for domain in self.domains):
            raise ValueError(f"{host} is outside {', '.join(self.domains)}")
        now = now or datetime.datetime.now(datetime.UTC)
        known = self._leaves.get(host)
        if known is not None and now - known.certificate.not_valid_before_utc < _SKEW + _LEAF_USE:
            return known
        if len(self._leaves) >= _KEPT_LEAVES:
            del self._leaves[next(iter(self._leaves))]
        leaf = self._leaves[host] = Leaf(self._sign(host, now), self._leaf_key)
        return leaf

    def _sign(self, host: str, now: datetime.datetime) -> x509.Certificate:
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder()
            .issuer_name(self.certificate.subject)
            .subject_name(x509.Name([]))
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(min(now + LEAF_LIFE, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
            .sign(self.key, hashes.SHA256())
        )


def load_or_create(directory: Path, domains: Sequence[str]) -> LocalCa:
    """Return the CA in ``directory``; make a new one if there is none, or none that is fit for ``domains``.

    A new CA has to be installed in the browsers again.  OSError if the directory cannot be used.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & 0o077:
        directory.chmod(0o700)
    wanted = tuple(sorted(set(domains)))
    try:
        return _load(directory, wanted)
    except FileNotFoundError:
        _log.info("making the local CA for %s", ", ".join(wanted))
    except ValueError as error:
        _log.warning("the local CA is made anew (%s); browsers need the new certificate", error)
    return _create(directory, wanted)


def _load(directory: Path, domains: tuple[str, ...]) -> LocalCa:
    path = directory / KEY_FILE
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError("others could read its key")
    pem = path.read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("its key and its certificate do not belong together")
    if certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < RENEW_BEFORE:
        raise ValueError("it ends soon")
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    permitted = tuple(sorted(str(name.value) for name in constraints.permitted_subtrees or ()))
    if permitted != domains:
        raise ValueError(f"it is for {', '.join(permitted)}")
    return LocalCa(certificate, key, domains)


def _create(directory: Path, domains: tuple[str, ...]) -> LocalCa:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    # The number tells this CA from its predecessor, which a browser may still hold.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"imsbridge on this device {secrets.token_hex(4)}")])
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.DNSName(domain) for domain in domains],
        # A list of permitted names leaves IP addresses free.
        excluded_subtrees=[x509.IPAddress(network) for network in everything],
    )
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(True, 0), True)
        .add_extension(usage, True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(constraints, True)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(directory / KEY_FILE, private + public, 0o600)
    _write(directory / CERTIFICATE_FILE, public, 0o644)
    return LocalCa(certificate, key, domains)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace ``path`` as a whole, never readable by others in between."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
