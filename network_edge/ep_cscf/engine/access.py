"""What a REGISTER may say about its authentication, and what the edge says instead (TS 24.371 clause 6, RFC 8898)."""

from __future__ import annotations

from imskit.secrets import Identity, Secret
from imskit.sip.wire.auth import Credentials
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import quote
from imskit.sip.wire.message import Message, Request, Response, response_to
from network_edge.ep_cscf.engine.effects import TokenClaims, TokenError
from network_edge.ep_cscf.engine.settings import EpCscfSettings

_FIELDS = ("Authorization", "Proxy-Authorization")
_OF_A_CLIENT = frozenset(
    {"username", "realm", "nonce", "uri", "response", "algorithm", "cnonce", "opaque", "qop", "nc", "auts"}
)
"""Parameters of a digest (RFC 3261 section 25.1, RFC 3310 section 3.4)."""
_WORDS_OF_TRUST = ("integrity-protected", "authorization-entity")
_DEFAULT_EXPIRES = 3600


def bearer_of(request: Request) -> Secret[str] | None:
    """Return the access token of a request, in either spelling; raises `SipParseError` for more than one."""
    found: list[Secret[str]] = []
    for value in request.headers.get_all("Authorization"):
        if value.lstrip().lower().startswith("bearer"):
            token = Credentials.parse(value, "Authorization").bearer_token
            if token is None:
                raise SipParseError("the access token is missing", where="Authorization", clause="RFC 8898 section 3")
            found.append(token)
    if len(found) > 1:
        raise SipParseError("there is more than one access token", where="Authorization", clause="RFC 6750 section 2")
    return found[0] if found else None


def digest_user(request: Request) -> Identity | None:
    """Return the private identity of the digest in a REGISTER; raises `SipParseError` where two differ."""
    users: set[str] = set()
    for value in request.headers.get_all("Authorization"):
        credentials = Credentials.parse(value, "Authorization")
        if credentials.is_digest and credentials.username:
            users.add(credentials.username)
    if len(users) > 1:
        raise SipParseError("two digests are of two users", where="Authorization", clause="RFC 3261 section 22.2")
    return Identity(users.pop()) if users else None


def clean_credentials(message: Message, entity_parameter: str, protection: str = "") -> None:
    """Write every digest anew from what a client may say in one; all else (Bearer …) goes.

    ``protection`` is what the edge says of every Authorization itself (``integrity-protected``), empty for nothing.  It
    comes first, and `SipParseError` is raised where a value holds a word of trust: some cores look for these words in
    the text of the field, wherever they stand.
    """
    for name in _FIELDS:
        values = message.headers.get_all(name)
        if not values:
            continue
        message.headers.remove(name)
        for value in values:
            credentials = Credentials.parse(value, name)
            if not credentials.is_digest:
                continue
            said = [(key, text) for key, text in credentials.items if key.lower() in _OF_A_CLIENT]
            for key, text in said:
                lower = text.lower()
                if "\\" in text or any(word in lower for word in (*_WORDS_OF_TRUST, entity_parameter.lower())):
                    raise SipParseError(
                        f"{key} holds what is not a client's to say", where=name, clause="TS 24.229 5.2.2"
                    )
            if protection and name == "Authorization":
                said.insert(0, ("integrity-protected", quote(protection)))
            message.headers.add(name, Credentials("Digest", tuple(said)))


def protection_of(request: Request, *, secure: bool, known: bool) -> str:
    """Return ``integrity-protected`` for a digest REGISTER (TS 24.229 clauses 5.2.2 and 7.2A.2).

    ``secure``: it came over TLS; ``known``: over the connection of a registration of the same user.  Without TLS the
    connection comes from a proxy in front that has ended it; then it counts as an association of addresses.
    """
    for value in request.headers.get_all("Authorization"):
        if "aka" not in value.lower() and "\\" not in value:
            continue
        algorithm = Credentials.parse(value, "Authorization").algorithm or ""
        if algorithm.upper().startswith("AKA") and secure:
            return "tls-connected"
    kind = "tls" if secure else "ip-assoc"
    return f"{kind}-yes" if known else f"{kind}-pending"


def trusted_credentials(claims: TokenClaims, settings: EpCscfSettings) -> Credentials:
    """Return the Authorization with which a trusted node registers an authenticated user (TS 33.203 annex U)."""
    home = settings.home_domain
    return Credentials.digest(
        username=str.__str__(claims.impi),
        realm=home,
        nonce="",
        uri=f"sip:{home}",
        response="",
        more=[
            ("integrity-protected", "auth-done"),
            (settings.authorization_entity, claims.web_server_identity),
        ],
    )


def token_refusal(request: Request, error: TokenError, settings: EpCscfSettings) -> Response:
    """Answer a request whose token is not good (RFC 6750 section 3.1, RFC 8898 section 2.3)."""
    if error == "unavailable":
        return unavailable(request, settings.retry_after)
    response = response_to(request, 403 if error == "insufficient_scope" else 401)
    parameters = [("realm", settings.home_domain), ("error", error)]
    if settings.authz_server:
        parameters.insert(0, ("authz_server", settings.authz_server))
    written = ", ".join(f"{name}={quote(value)}" for name, value in parameters)
    response.headers.add("WWW-Authenticate", f"Bearer {written}")
    return response


def unavailable(request: Request, retry_after: int) -> Response:
    """Answer what cannot be served now."""
    response = response_to(request, 503)
    response.headers.add("Retry-After", retry_after)
    return response


def wanted_expires(request: Request) -> int:
    """Return the longest registration that a REGISTER asks for, seconds; 0 takes it off."""
    contacts = request.contacts
    general = request.expires
    default = _DEFAULT_EXPIRES if general is None else general
    if contacts == "*" or not contacts:
        return default
    return max(default if contact.expires is None else contact.expires for contact in contacts)


def bound_expires(message: Request | Response, longest: int) -> None:
    """Let no contact of a REGISTER, or of its answer, live longer than ``longest`` seconds."""
    contacts = message.contacts
    general = message.expires
    if contacts == "*":
        return
    if isinstance(message, Request) or general is not None:
        message.headers.set("Expires", min(longest, _DEFAULT_EXPIRES if general is None else general))
    if any(contact.expires is not None and contact.expires > longest for contact in contacts):
        message.headers.remove("Contact")
        for contact in contacts:
            expires = contact.expires
            if expires is not None and expires > longest:
                contact = contact.with_parameter("expires", str(longest))
            message.headers.add("Contact", contact)
