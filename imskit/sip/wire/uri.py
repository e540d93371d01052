"""SIP, SIPS and tel URIs, and every other scheme as opaque text (RFC 3261 section 19.1, RFC 3966)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote as _percent_decode

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import NO_PARAMETERS, Parameters, host_port, parse_host_port

_ESCAPE = r"%[0-9A-Fa-f]{2}"
_USER = re.compile(rf"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/#]|{_ESCAPE})++")
_PASSWORD = re.compile(rf"(?:[A-Za-z0-9\-_.!~*'()&=+$,]|{_ESCAPE})*+")
_PARAMETER = re.compile(
    rf";((?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]|{_ESCAPE})++)(?:=((?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$=@]|{_ESCAPE})++))?"
)
_HEADERS = re.compile(rf"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$=&@;,]|{_ESCAPE})++")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+")
_OTHER = re.compile(r"[!#-;=?-\[\]_a-z~%]++")
_TEL_GLOBAL = re.compile(r"\+[().-]*+[0-9][0-9().-]*+")
_TEL_LOCAL = re.compile(r"[0-9A-Fa-f*#().-]++")
_TEL_PARAMETER = re.compile(rf";([A-Za-z0-9-]++)(?:=((?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]|{_ESCAPE})++))?")
_VISUAL = str.maketrans("", "", "-.()")
_MAXIMUM = 8192


@dataclass(frozen=True, slots=True)
class SipUri:
    """``sip:`` or ``sips:``.

    ``user``, ``password`` and the parameters are kept as written (percent escapes included), ``host`` is without
    brackets, ``headers`` is the text behind ``?``.
    """

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int | None = None
    parameters: Parameters = NO_PARAMETERS
    headers: str | None = None

    @property
    def user_text(self) -> str:
        """The user part with its escapes undone, empty if there is none."""
        return unescape(self.user) if self.user else ""

    @property
    def transport(self) -> str | None:
        """The ``transport`` parameter in lower case."""
        value = self.parameters.raw("transport")
        return value.lower() if value else None

    @property
    def loose_router(self) -> bool:
        """True with ``lr`` (RFC 3261 section 19.1.1); ``lr=on`` counts."""
        return "lr" in self.parameters

    def with_parameter(self, name: str, value: str | None = None) -> SipUri:
        """Return a copy with the parameter set; ``value`` is written as it is."""
        return self._with(self.parameters.with_(name, value))

    def without_parameters(self, *names: str) -> SipUri:
        """Return a copy without these parameters."""
        return self._with(self.parameters.without(*names))

    def _with(self, parameters: Parameters) -> SipUri:
        # `dataclasses.replace` takes four times as long.
        return SipUri(self.scheme, self.user, self.password, self.host, self.port, parameters, self.headers)

    def address_of_record(self) -> SipUri:
        """Return the canonical form that a registrar indexes by (RFC 3261 section 10.3 step 5)."""
        return SipUri(self.scheme, unescape(self.user) if self.user else None, None, self.host.lower(), self.port)

    def __str__(self) -> str:
        user = "" if self.user is None else self.user
        if self.password is not None:
            user += ":" + self.password
        at = "" if self.user is None else "@"
        headers = "" if self.headers is None else "?" + self.headers
        return f"{self.scheme}:{user}{at}{host_port(self.host, self.port)}{self.parameters}{headers}"


@dataclass(frozen=True, slots=True)
class TelUri:
    """``tel:`` (RFC 3966); ``number`` as written, visual separators included."""

    number: str
    parameters: Parameters = NO_PARAMETERS

    @property
    def scheme(self) -> str:
        """Always ``tel``."""
        return "tel"

    @property
    def digits(self) -> str:
        """The number without visual separators."""
        return self.number.translate(_VISUAL)

    def __str__(self) -> str:
        return f"tel:{self.number}{self.parameters}"


@dataclass(frozen=True, slots=True)
class OtherUri:
    """A URI of any other scheme: ``urn:service:sos``, ``mailto:…``, ``http:…``."""

    scheme: str
    rest: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"


type Uri = SipUri | TelUri | OtherUri


def unescape(text: str) -> str:
    """Undo percent escapes; octets that are no UTF-8 survive as surrogate escapes."""
    return _percent_decode(text, errors="surrogateescape") if "%" in text else text


def parse_uri(text: str, where: str = "URI") -> Uri:
    """Parse any absolute URI; ``where`` names its place for the error.

    Raises `SipParseError` (400; 414 above 8192 characters).  An unknown scheme is no error here: whoever routes on
    the URI answers 416.
    """
    if len(text) > _MAXIMUM:
        raise SipParseError("the URI is too long", where=where, clause="RFC 3261 section 21.4.12", status=414)
    scheme, colon, rest = text.partition(":")
    if not colon or _SCHEME.fullmatch(scheme) is None:
        raise SipParseError("a URI has no scheme", where=where, clause="RFC 3261 section 19.1.1", found=text)
    scheme = scheme.lower()
    if scheme in ("sip", "sips"):
        return _parse_sip(scheme, rest, where, text)
    if scheme == "tel":
        return _parse_tel(rest, where, text)
    if _OTHER.fullmatch(rest) is None:
        raise SipParseError("a character that no URI may hold", where=where, clause="RFC 3986 section 2", found=text)
    return OtherUri(scheme, rest)


def _parse_sip(scheme: str, rest: str, where: str, text: str) -> SipUri:
    user: str | None = None
    password: str | None = None
    # Neither host, port nor parameters may hold an "@", so the first one ends the user part.
    userinfo, at, after = rest.partition("@")
    if at:
        user, colon, secret = userinfo.partition(":")
        if _USER.fullmatch(user) is None:
            raise _bad("the user part cannot be read", where, text)
        if colon:
            password = secret
            if _PASSWORD.fullmatch(secret) is None:
                raise _bad("the password part cannot be read", where, text)
    else:
        after = rest
    after, question, headers = after.partition("?")
    if question and _HEADERS.fullmatch(headers) is None:
        raise _bad("the headers part cannot be read", where, text)
    hostport, semicolon, _ = after.partition(";")
    host, port = parse_host_port(hostport, where)
    parameters = _parse_parameters(_PARAMETER, after[len(hostport) :], where, text) if semicolon else NO_PARAMETERS
    return SipUri(scheme, user, password, host, port, parameters, headers if question else None)


def _parse_tel(rest: str, where: str, text: str) -> TelUri:
    number, semicolon, _ = rest.partition(";")
    pattern = _TEL_GLOBAL if number.startswith("+") else _TEL_LOCAL
    if pattern.fullmatch(number) is None:
        raise SipParseError("this is no telephone number", where=where, clause="RFC 3966 section 3", found=text)
    return TelUri(
        number,
        _parse_parameters(_TEL_PARAMETER, rest[len(number) :], where, text) if semicolon else NO_PARAMETERS,
    )


def _parse_parameters(pattern: re.Pattern[str], text: str, where: str, whole: str) -> Parameters:
    items = []
    position = 0
    while position < len(text):
        found = pattern.match(text, position)
        if found is None:
            raise _bad("a parameter cannot be read", where, whole)
        items.append((found[1], found[2]))
        position = found.end()
    return Parameters(tuple(items))


def _bad(what: str, where: str, text: str) -> SipParseError:
    return SipParseError(what, where=where, clause="RFC 3261 section 25.1", found=text)


# Parameters that make two URIs differ even if only one of them has it (RFC 3261 section 19.1.4).
_TELLING = ("user", "ttl", "method", "maddr", "transport")


def uri_equal(a: Uri, b: Uri) -> bool:
    """Compare by the rules of each scheme: RFC 3261 section 19.1.4, RFC 3966 section 4, else as text."""
    if isinstance(a, SipUri) and isinstance(b, SipUri):
        return _sip_equal(a, b)
    if isinstance(a, TelUri) and isinstance(b, TelUri):
        return a.digits.lower() == b.digits.lower() and _tel_parameters(a) == _tel_parameters(b)
    return a == b


def _sip_equal(a: SipUri, b: SipUri) -> bool:
    if (a.scheme, a.host.lower(), a.port) != (b.scheme, b.host.lower(), b.port):
        return False
    if _folded(a.user) != _folded(b.user) or _folded(a.password) != _folded(b.password):
        return False
    for name in _TELLING:
        if (name in a.parameters) != (name in b.parameters):
            return False
    for name, value in a.parameters:
        other = b.parameters.raw(unescape(name))
        if other is not None and unescape(value or "").lower() != unescape(other).lower():
            return False
    return _uri_headers(a.headers) == _uri_headers(b.headers)


def _folded(text: str | None) -> str | None:
    return None if text is None else unescape(text)


def _uri_headers(text: str | None) -> list[tuple[str, str]]:
    pairs = []
    for part in (text or "").split("&"):
        name, _, value = part.partition("=")
        pairs.append((unescape(name).lower(), unescape(value)))
    return sorted(pairs)


def _tel_parameters(uri: TelUri) -> list[tuple[str, str]]:
    return sorted(
        (name.lower(), (value or "").lower().translate(_VISUAL) if name.lower() == "ext" else (value or "").lower())
        for name, value in uri.parameters
    )
