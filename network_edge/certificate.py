"""A self-signed certificate, made where there is none: for trials and labs, until a real one is there."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 730
_RENEW_DAYS = 30


class CertificateError(Exception):
    """The certificate cannot be made or read; the text says why and what to do."""


def ensure_certificate(certificate: Path, key: Path, names: list[str]) -> bool:
    """See to it that the two files hold a certificate for ``names`` (host names, IP addresses) and its key.

    True if they have been made now: where there were none, or where the certificate is near its end or lacks a name.
    The key is readable by its owner only.  ``CertificateError``.
    """
    try:
        if _still_good(certificate, key, names):
            return False
        _make(certificate, key, names)
    except OSError as error:
        raise CertificateError(f"{error.filename or certificate}: {error.strerror}") from error
    return True


def fingerprint(certificate: Path) -> str:
    """The SHA-256 fingerprint as browsers show it; ``CertificateError``."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{certificate}: cannot be read: {error}") from error
    return found.fingerprint(hashes.SHA256()).hex(":").upper()


def _still_good(certificate: Path, key: Path, names: list[str]) -> bool:
    if not certificate.exists() or not key.exists():
        return False
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        stated = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        raise CertificateError(
            f"{certificate}: is no certificate of ours. Remove it and {key}: they are made anew"
        ) from None
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=_RENEW_DAYS)
    return soon < found.not_valid_after_utc and all(_general_name(name) in stated for name in names)


def _make(certificate: Path, key: Path, names: list[str]) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    stated = [_general_name(name) for name in dict.fromkeys(names)]
    public = secret.public_key()
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(stated), critical=False)
        # Browsers trust added certificates as authorities only; the constraints keep it from vouching for other names.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.NameConstraints([_constraint(name) for name in stated], None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(secret, hashes.SHA256())
    )
    text = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key, text, 0o600)
    _write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)


_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file as a whole."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    new.replace(path)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _constraint(name: x509.GeneralName) -> x509.GeneralName:
    if isinstance(name, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(name.value))
    return name
