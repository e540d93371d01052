"""Accounts in a directory (LDAP, RFC 4511): it holds the passwords, a log-in is a bind as the user."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldap3 import NONE, SUBTREE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPException, LDAPInvalidDnError
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn, parse_dn

from imskit.config.model import setting
from imskit.secrets import Secret
from network_edge.wwsf.identities.model import (
    MAX_PASSWORD,
    Account,
    StoreUnavailableError,
    identities,
    normal_name,
)

_log = logging.getLogger(__name__)

_SECONDS = 5
_INVALID_CREDENTIALS = 49
_NO_SUCH_OBJECT = 32
_REFUSALS = {_INVALID_CREDENTIALS, _NO_SUCH_OBJECT, 53, 19, 48, 50}
"""Results of a bind that mean no, rather than a fault (RFC 4511 appendix A.2): also locked and expired accounts."""
_AT_ONCE = 8


@dataclass(frozen=True)
class LdapConfig:
    """Accounts in a directory instead of the database: the user's password is the directory's."""

    uri: str = setting("ldaps://host[:port], ldap://host (then with StartTLS) or ldapi://socket")
    base: str = setting("distinguished name below which the users are")
    bind_dn: str = setting("whom this server binds as to search; empty: anonymous", "")
    bind_password: Secret[str] = setting("its password", factory=lambda: Secret(""))
    ca: Path | None = setting("certificates of the directory's authority, PEM; without: the system's", None)
    name: str = setting("attribute with the web identity", "uid")
    impi: str = setting("attribute with the private identity", "imsPrivateIdentity")
    impus: str = setting(
        "attribute with the public identities; the first SIP URI is the default one", "imsPublicIdentity"
    )
    display: str = setting("attribute with the name that is shown", "displayName")
    range: str = setting("range for users without those attributes; empty: they are refused", "")

    def __post_init__(self) -> None:
        if not self.uri.startswith(("ldaps://", "ldap://", "ldapi://")):
            raise ValueError("uri must begin with ldaps://, ldap:// or ldapi://")
        try:
            for dn in filter(None, (self.base, self.bind_dn)):
                parse_dn(dn)
        except LDAPInvalidDnError:
            raise ValueError("base and bind_dn must be distinguished names (RFC 4514)") from None
        for attribute in (self.name, self.impi, self.impus, self.display):
            if not attribute.replace("-", "").isalnum() or not attribute.isascii():
                raise ValueError(f"{attribute!r} is no name of an attribute (RFC 4512 2.5)")


class LdapStore:
    """``IdentityStore`` over LDAP.  A connection for each question: a bind changes whose it is."""

    def __init__(self, config: LdapConfig) -> None:
        self._config = config
        self._tls = Tls(
            validate=ssl.CERT_REQUIRED,
            ca_certs_file=str(config.ca) if config.ca else None,
            version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def log_in(self, name: str, password: Secret[str]) -> Account | None:
        """See ``IdentityStore``; an account that the directory has locked is refused like a wrong password."""
        try:
            wanted = normal_name(name)
        except ValueError:
            wanted = ""
        # An empty password would be an unauthenticated bind, which succeeds (RFC 4513 clause 5.1.2).
        fits = 0 < len(password.reveal()) <= MAX_PASSWORD
        return await self._run(self._log_in, wanted, password if fits else Secret("-"), fits)

    async def by_subject(self, issuer: str, subject: str) -> Account | None:
        """See ``IdentityStore``: a directory knows no OpenID subjects here."""
        return None

    async def check(self) -> None:
        """See ``IdentityStore``."""
        await self._run(self._ask_nothing)

    async def close(self) -> None:
        """See ``IdentityStore``: nothing stays open."""

    async def _run[*A, T](self, work: Callable[[*A], T], *arguments: *A) -> T:
        async with self._gate:
            try:
                return await asyncio.to_thread(work, *arguments)
            except (LDAPException, OSError) as error:
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise StoreUnavailableError(f"the directory {self._config.uri} cannot be used: {text[:200]}") from None

    def _ask_nothing(self) -> None:
        self._connect().unbind()

    def _connect(self, dn: str = "", password: Secret[str] | None = None) -> Connection:
        """Return a connection bound as the server itself, or as ``dn``; the result of the bind is in it."""
        secret = password or self._config.bind_password
        connection = Connection(
            # A Server remembers for long that it was not there once: a new one each time.
            Server(self._config.uri, connect_timeout=_SECONDS, get_info=NONE, tls=self._tls),
            user=(dn or self._config.bind_dn) or None,
            password=secret.reveal() or None,
            receive_timeout=_SECONDS,
            raise_exceptions=False,
        )
        connection.open()
        # A password goes out in TLS only; the socket of the same machine needs none.
        if self._config.uri.startswith("ldap://") and not connection.start_tls():
            raise LDAPException("it does not do StartTLS")
        if not connection.bind() and not dn:
            raise LDAPException(f"it refuses this server ({connection.result['description']})")
        return connection

    def _log_in(self, name: str, password: Secret[str], fits: bool) -> Account | None:
        config = self._config
        connection = self._connect()
        try:
            wanted = f"({config.name}={escape_filter_chars(name)})"
            attributes = [config.name, config.impi, config.impus, config.display]
            connection.search(config.base, wanted, SUBTREE, attributes=attributes, size_limit=2)
            if connection.result["result"] not in (0, _NO_SUCH_OBJECT, 4):
                raise LDAPException(f"a search failed ({connection.result['description']})")
            found = [entry for entry in connection.response or () if entry.get("type") == "searchResEntry"]
        finally:
            connection.unbind()
        if len(found) > 1:
            _log.warning("the directory has more than one entry of one name: nobody is logged in by it")
        one = found[0] if len(found) == 1 and name else None
        # A user who is not there costs a bind too.
        dn = one["dn"] if one else f"{config.name}={escape_rdn('nobody')},{config.base}"
        bound = self._connect(dn, password)
        result = bound.result
        bound.unbind()
        if result["result"] != 0 and result["result"] not in _REFUSALS:
            raise LDAPException(f"a log-in failed ({result['description']})")
        if one is None or not fits or result["result"] != 0:
            return None
        return self._account(name, one["attributes"])

    def _account(self, name: str, attributes: Any) -> Account:
        def values(attribute: str) -> list[str]:
            value = attributes.get(attribute) or []
            return [str(item) for item in (value if isinstance(value, list) else [value])]

        config = self._config
        impi, impus, display = values(config.impi), values(config.impus), values(config.display)
        if not impi and config.range:
            return Account(name, None, range=config.range)
        impus.sort(key=lambda impu: not impu.startswith("sip"))
        try:
            return Account(name, identities(impi[0] if impi else "", impus, display[0] if display else ""))
        except ValueError as error:
            raise LDAPException(f"the entry of a user has no usable IMS identities: {error}") from error
