"""Globally routable user agent URIs of the registrar (RFC 5627, TS 24.229 clauses 5.4.1.2.2F and 5.4.7A)."""

from __future__ import annotations

import uuid
from urllib.parse import quote

from imskit.engine import Tokens
from imskit.sip.wire.uri import SipUri, Uri

TEMPORARY_EACH = 64
"""Temporary GRUUs of one binding that stay good; older ones end before their time."""
_TEMPORARY = "tgruu."
"""What the user part of a temporary GRUU begins with: no subscriber of this core is called so."""
_AS_IS = ":-._~"


def public_gruu(identity: SipUri, instance: str) -> str:
    """Return the public GRUU of an instance ID under a public identity.

    The number of a handset is nobody's business: its GRUU has a name-based UUID instead (clause 5.4.7A.2).
    """
    return str(identity.address_of_record().with_parameter("gr", _gr(instance)))


def is_public(uri: Uri) -> bool:
    """Whether a URI has the form of a public GRUU."""
    return isinstance(uri, SipUri) and bool(uri.parameters.get("gr"))


def names_instance(uri: Uri, instance: str) -> bool:
    """Whether a public GRUU is that of an instance."""
    return isinstance(uri, SipUri) and (uri.parameters.get("gr") or "").lower() == _gr(instance).lower()


def _gr(instance: str) -> str:
    if instance.lower().startswith(("urn:gsma:imei:", "urn:gsma:imeisv:")):
        instance = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, instance.lower())}"
    return quote(instance, safe=_AS_IS)


class TemporaryGruus:
    """The temporary GRUUs of one domain: unguessable names, each for one instance of one subscription."""

    def __init__(self, domain: str, tokens: Tokens) -> None:
        self._domain = domain
        self._tokens = tokens
        self._owners: dict[str, tuple[str, str]] = {}

    def make(self, impi: str, instance: str) -> str:
        """Return the user part of a new one."""
        name = f"{_TEMPORARY}{self._tokens(32)}"
        self._owners[name] = impi, instance
        return name

    def uri(self, name: str) -> str:
        """Return the GRUU."""
        return f"sip:{name}@{self._domain};gr"

    def owner(self, uri: Uri) -> tuple[str, str] | None:
        """Return whose it is, private identity and instance; ``None`` if it is none that is good."""
        if not isinstance(uri, SipUri) or uri.host.lower() != self._domain or "gr" not in uri.parameters:
            return None
        return self._owners.get(uri.user or "")

    def end(self, *names: str) -> None:
        """Let some be good no longer."""
        for name in names:
            self._owners.pop(name, None)

    def __len__(self) -> int:
        return len(self._owners)
