"""Challenges and credentials of SIP and HTTP authentication: Digest (RFC 7616, 8760, 3310) and Bearer (RFC 8898).

Parameters keep their order and their exact text, so a proxy can take one out and leave the rest as it was
(``ik``, ``ck``, ``integrity-protected``).  Quoting when a value is written: RFC 7616 sections 3.3 to 3.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from imskit.secrets import Secret
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import QUOTED, TOKEN_CHARS, check_value, is_token, quote, unquote

_SCHEME = re.compile(rf"[ \t]*+([{TOKEN_CHARS}]++)(?:[ \t]++|$)")
_PARAMETER = re.compile(rf"[ \t]*+([{TOKEN_CHARS}]++)[ \t]*+=[ \t]*+({QUOTED}|[^\s,\"]++)[ \t]*+(?:,|$)", re.DOTALL)
_PARAMETER_EMPTY = re.compile(rf"[ \t]*+([{TOKEN_CHARS}]++)[ \t]*+=[ \t]*+()(?:,|$)")
_SEPARATOR = re.compile(r"[ \t]*+,")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]++=*+")
_MAXIMUM_PARAMETERS = 64

_UNQUOTED = frozenset({"algorithm", "nc", "stale", "userhash"})
"""Written without quotes everywhere (RFC 7616 sections 3.3, 3.4)."""


@dataclass(frozen=True, slots=True, repr=False)
class AuthValue:
    """A scheme with its parameters; the common part of `Challenge` and `Credentials`."""

    scheme: str
    """As written; compare in lower case."""
    items: tuple[tuple[str, str], ...] = ()
    """Name and raw value (quotes included), in order."""
    token68: str | None = None
    """What stands in the place of parameters, as in ``Bearer <token>``."""

    @classmethod
    def parse(cls, text: str, where: str = "authentication") -> Self:
        """Parse one header value.  Raises `SipParseError` (400), also for a parameter that comes twice."""
        found = _SCHEME.match(text)
        if found is None:
            raise SipParseError("the scheme is missing", where=where, clause="RFC 3261 section 20.7")
        scheme = found[1]
        rest = text[found.end() :].rstrip(" \t")
        if rest and scheme.lower() != "digest" and _TOKEN68.fullmatch(rest) is not None:
            return cls(scheme, (), rest)
        items: list[tuple[str, str]] = []
        position = 0
        while position < len(rest):
            pair = _PARAMETER.match(rest, position) or _PARAMETER_EMPTY.match(rest, position)
            if pair is None:
                separator = _SEPARATOR.match(rest, position)
                if separator is None:
                    # The text is not shown: it may be a token or a response.
                    raise SipParseError(
                        f"parameter {len(items) + 1} cannot be read", where=where, clause="RFC 3261 section 25.1"
                    )
                position = separator.end()
                continue
            items.append((pair[1], pair[2]))
            position = pair.end()
        names = [name.lower() for name, _ in items]
        if len(set(names)) != len(names) or len(names) > _MAXIMUM_PARAMETERS:
            raise SipParseError(
                "a parameter comes twice, or there are too many", where=where, clause="RFC 7616 section 3.4"
            )
        return cls(scheme, tuple(items))

    def get(self, name: str) -> str | None:
        """Return the meaning of a parameter (quotes removed), ``None`` if it is absent."""
        name = name.lower()
        for own, value in self.items:
            if own.lower() == name:
                return unquote(value)
        return None

    def with_(self, name: str, value: str) -> Self:
        """Return a copy with the parameter set, in its place or at the end, quoted as the standards ask."""
        item = (name, self._quoted(name, value))
        lowered = name.lower()
        items = [item if own[0].lower() == lowered else own for own in self.items]
        if item not in items:
            items.append(item)
        return type(self)(self.scheme, tuple(items), self.token68)

    def without(self, *names: str) -> Self:
        """Return a copy that has none of ``names``; the others keep their exact text."""
        lowered = {name.lower() for name in names}
        kept = tuple(item for item in self.items if item[0].lower() not in lowered)
        return type(self)(self.scheme, kept, self.token68)

    @classmethod
    def _of(cls, scheme: str, pairs: Iterable[tuple[str, str | None]]) -> Self:
        return cls(scheme, tuple((name, cls._quoted(name, value)) for name, value in pairs if value is not None))

    @classmethod
    def _quoted(cls, name: str, value: str) -> str:
        check_value(value, name)
        if not is_token(name):
            raise SipParseError("a parameter's name is no token", found=name)
        if name.lower() in _UNQUOTED:
            if not is_token(value):
                raise SipParseError("the value must be a token", where=name, clause="RFC 7616 section 3.4")
            return value
        return quote(value)

    @property
    def is_digest(self) -> bool:
        """True for the Digest scheme."""
        return self.scheme.lower() == "digest"

    @property
    def is_bearer(self) -> bool:
        """True for the Bearer scheme."""
        return self.scheme.lower() == "bearer"

    @property
    def realm(self) -> str | None:
        """Protection domain."""
        return self.get("realm")

    @property
    def nonce(self) -> str | None:
        """Nonce; in AKA the base64 of RAND, AUTN and server data (RFC 3310 section 3.2)."""
        return self.get("nonce")

    @property
    def opaque(self) -> str | None:
        """To be sent back as it is."""
        return self.get("opaque")

    @property
    def algorithm(self) -> str | None:
        """As written: ``MD5``, ``SHA-256``, ``AKAv1-MD5`` …; absent means MD5."""
        return self.get("algorithm")

    def __str__(self) -> str:
        if self.token68 is not None:
            return f"{self.scheme} {self.token68}"
        return f"{self.scheme} " + ", ".join(f"{name}={value}" for name, value in self.items)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.scheme} {' '.join(name for name, _ in self.items)}>"


@dataclass(frozen=True, slots=True, repr=False)
class Challenge(AuthValue):
    """WWW-Authenticate or Proxy-Authenticate."""

    @classmethod
    def digest(
        cls,
        realm: str,
        nonce: str,
        *,
        algorithm: str = "MD5",
        qop: Iterable[str] = ("auth",),
        opaque: str | None = None,
        stale: bool | None = None,
        more: Iterable[tuple[str, str]] = (),
    ) -> Challenge:
        """Build a Digest challenge; ``more`` are further parameters (``ik``, ``ck``), written quoted."""
        qop_text = ",".join(qop)
        return cls._of(
            "Digest",
            [
                ("realm", realm),
                ("nonce", nonce),
                ("opaque", opaque),
                ("stale", None if stale is None else "true" if stale else "false"),
                ("algorithm", algorithm),
                ("qop", qop_text or None),
                *more,
            ],
        )

    @classmethod
    def bearer(
        cls, authz_server: str, *, realm: str | None = None, scope: str | None = None, error: str | None = None
    ) -> Challenge:
        """Build a Bearer challenge (RFC 8898 section 4); ``authz_server`` is an https URI."""
        return cls._of("Bearer", [("authz_server", authz_server), ("realm", realm), ("scope", scope), ("error", error)])

    @property
    def qop(self) -> tuple[str, ...]:
        """The qualities offered, in lower case; empty if the parameter is absent."""
        value = self.get("qop")
        return tuple(part.strip().lower() for part in value.split(",") if part.strip()) if value else ()

    @property
    def stale(self) -> bool:
        """True if only the nonce was too old."""
        return (self.get("stale") or "").lower() == "true"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials(AuthValue):
    """Authorization or Proxy-Authorization."""

    @classmethod
    def digest(
        cls,
        *,
        username: str,
        realm: str,
        nonce: str,
        uri: str,
        response: str,
        algorithm: str | None = None,
        cnonce: str | None = None,
        opaque: str | None = None,
        qop: str | None = None,
        nc: str | None = None,
        auts: str | None = None,
        more: Iterable[tuple[str, str]] = (),
    ) -> Credentials:
        """Build Digest credentials; ``nc`` is 8 hex digits, ``qop`` is written without quotes.

        The first IMS REGISTER has empty ``nonce`` and ``response`` (TS 24.229 section 5.1.1.2.2).
        """
        return cls._of(
            "Digest",
            [
                ("username", username),
                ("realm", realm),
                ("nonce", nonce),
                ("uri", uri),
                ("response", response),
                ("algorithm", algorithm),
                ("cnonce", cnonce),
                ("opaque", opaque),
                ("qop", qop),
                ("nc", nc),
                ("auts", auts),
                *more,
            ],
        )

    @classmethod
    def bearer(cls, token: Secret[str]) -> Credentials:
        """Build Bearer credentials (RFC 8898 section 3, RFC 6750 section 2.1)."""
        text = token.reveal()
        if _TOKEN68.fullmatch(text) is None:
            raise SipParseError("the access token is no b64token", clause="RFC 6750 section 2.1")
        return cls("Bearer", (), text)

    @classmethod
    def _quoted(cls, name: str, value: str) -> str:
        if name.lower() == "qop":
            if not is_token(value):
                raise SipParseError("the value must be a token", where=name, clause="RFC 7616 section 3.4")
            return value
        # "super()" does not work in a slotted dataclass' class method.
        return AuthValue._quoted(name, value)

    @property
    def bearer_token(self) -> Secret[str] | None:
        """The access token: ``Bearer <token>`` (RFC 8898) or ``Bearer access_token="<token>"`` (TS 24.371 A.3.2)."""
        if not self.is_bearer:
            return None
        token = self.token68 or self.get("access_token")
        return Secret(token) if token else None

    @property
    def username(self) -> str | None:
        """The user; in IMS the private identity."""
        return self.get("username")

    @property
    def uri(self) -> str | None:
        """The digest-uri."""
        return self.get("uri")

    @property
    def response(self) -> str | None:
        """The answer, hex digits or empty."""
        return self.get("response")

    @property
    def qop(self) -> str | None:
        """The quality used, in lower case."""
        value = self.get("qop")
        return value.lower() if value else None

    @property
    def nc(self) -> int | None:
        """The nonce count; ``None`` if absent.  Raises `SipParseError` if it is not 8 hex digits."""
        value = self.get("nc")
        if value is None:
            return None
        if re.fullmatch(r"[0-9A-Fa-f]{8}", value) is None:
            raise SipParseError("8 hex digits are needed", where="nc", clause="RFC 7616 section 3.4", found=value)
        return int(value, 16)

    @property
    def cnonce(self) -> str | None:
        """The client's nonce."""
        return self.get("cnonce")

    @property
    def auts(self) -> str | None:
        """base64 of AUTS: the card asks to resynchronise (RFC 3310 section 3.4)."""
        return self.get("auts")


@dataclass(frozen=True, slots=True, repr=False)
class AuthenticationInfo:
    """Authentication-Info and Proxy-Authentication-Info (RFC 7615, RFC 7616 section 3.5)."""

    items: tuple[tuple[str, str], ...] = ()
    """Name and raw value."""

    @classmethod
    def parse(cls, text: str, where: str = "Authentication-Info") -> AuthenticationInfo:
        """Parse the value, a comma list without scheme."""
        return cls(AuthValue.parse(f"Digest {text}", where).items)

    @classmethod
    def digest(
        cls, *, qop: str | None, rspauth: str | None, cnonce: str | None, nc: str | None, nextnonce: str | None = None
    ) -> AuthenticationInfo:
        """Build it; ``qop`` and ``nc`` are written without quotes."""
        pairs = [("nextnonce", nextnonce), ("qop", qop), ("rspauth", rspauth), ("cnonce", cnonce), ("nc", nc)]
        return cls(tuple((name, Credentials._quoted(name, value)) for name, value in pairs if value is not None))

    def get(self, name: str) -> str | None:
        """Return the meaning of a parameter, ``None`` if it is absent."""
        return AuthValue("Digest", self.items).get(name)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.items)

    def __repr__(self) -> str:
        return f"<AuthenticationInfo {' '.join(name for name, _ in self.items)}>"
