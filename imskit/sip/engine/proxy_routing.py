"""What a proxy does to requests, without state: checks, Route, Record-Route, Path, loop detection.

RFC 3261 section 16.3, 16.4 and 16.6, RFC 3327, RFC 3608, RFC 5393, RFC 5658.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from ipaddress import ip_address

from imskit.sip.engine.proxy_events import ForwardTarget, RecordRoute
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.flow import DEFAULT_PORTS, Flow, Target, Transport
from imskit.sip.wire.grammar import split_list
from imskit.sip.wire.headers import NameAddr, Via
from imskit.sip.wire.message import Headers, Request, Response, response_to
from imskit.sip.wire.uri import OtherUri, SipUri, Uri, parse_uri

MAXIMUM_BREADTH = 60
"""Branches that one request may have at a time (RFC 5393 section 5.3.3)."""
_SCHEMES = frozenset({"sip", "sips", "tel", "urn"})
_TRANSPORTS: dict[str, Transport] = {"udp": "UDP", "tcp": "TCP", "tls": "TLS", "ws": "WS", "wss": "WSS"}


def validate(request: Request, understood: frozenset[str]) -> Response | None:
    """Check what RFC 3261 section 16.3 asks; return the refusal, without a To tag, or ``None``.

    ``understood`` are the option tags that Proxy-Require may name.  Raises `SipParseError` for headers that a
    proxy needs and cannot read.
    """
    uri = request.request_uri
    if isinstance(uri, OtherUri) and uri.scheme not in _SCHEMES:
        return response_to(request, 416)
    if request.max_forwards == 0:
        return response_to(request, 483)
    unknown = [tag for tag in request.proxy_require if tag not in understood]
    if unknown:
        refusal = response_to(request, 420)
        refusal.headers.add("Unsupported", ", ".join(unknown))
        return refusal
    _ = request.routes, request.record_routes, incoming_breadth(request)
    return None


def loop_mark(request: Request, salt: str) -> str:
    """Return the second part of the branch (RFC 5393 section 4.2.1): equal only if the same request comes again.

    ``request`` as it was received; the method takes no part, Route, Proxy-Require and credentials do.
    """
    parts = [
        salt,
        request.uri,
        request.from_.tag or "",
        request.to.tag or "",
        request.call_id,
        str(request.cseq.number),
        *(f"r{value}" for value in request.headers.elements("Route")),
        *(f"q{value}" for value in request.headers.elements("Proxy-Require")),
        *(f"a{value}" for value in request.headers.get_all("Proxy-Authorization")),
    ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def loops(request: Request, mark: str) -> bool:
    """True if one of the hops carries ``mark``: the salt makes sure that it is this proxy's own."""
    ending = f".{mark}"
    for element in request.headers.elements("Via"):
        if ending not in element:
            continue
        try:
            branch = Via.parse(element).branch
        except SipParseError:
            # RFC 5393 section 4.2.4: another element's Via must not disturb us.
            continue
        if branch is not None and branch.endswith(ending):
            return True
    return False


def is_own(uri: Uri, own: frozenset[tuple[str, int | None]]) -> bool:
    """True if host and port of ``uri`` are this proxy's; ``(host, None)`` in ``own`` stands for every port."""
    if not isinstance(uri, SipUri):
        return False
    host = uri.host.lower()
    default = DEFAULT_PORTS["TLS" if uri.scheme == "sips" else "UDP"]
    port = uri.port or DEFAULT_PORTS.get((uri.transport or "").upper(), default)
    return (host, None) in own or (host, port) in own


def take_own_routes(request: Request, own: frozenset[tuple[str, int | None]]) -> tuple[SipUri, ...]:
    """Do the route preprocessing of RFC 3261 section 16.4 on ``request``; return own values in their order."""
    taken: list[SipUri] = []
    uri = request.request_uri
    routes = request.routes
    if isinstance(uri, SipUri) and uri.loose_router and routes and is_own(uri, own):
        # A strict router put our Record-Route value here and the real Request-URI last.
        taken.append(uri)
        values = request.headers.elements("Route")
        request.uri = str(routes[-1].uri)
        if values[:-1]:
            request.headers.set("Route", ", ".join(values[:-1]))
        else:
            request.headers.remove("Route")
    maddr = uri.parameters.get("maddr") if isinstance(uri, SipUri) and not taken else None
    if isinstance(uri, SipUri) and maddr and is_own(replace(uri, host=maddr.strip("[]")), own):
        request.uri = str(replace(uri, port=None).without_parameters("maddr", "transport"))
    while (first := request.headers.first_element("Route")) is not None:
        route = NameAddr.parse(first, "Route").uri
        # Two of ours in a row are a double Record-Route only if they say so; else the request spirals.
        if not is_own(route, own) or (taken and not _doubled(taken[-1])):
            break
        if len(taken) == 2:
            break
        assert isinstance(route, SipUri)
        taken.append(route)
        request.headers.pop_element("Route")
    return tuple(taken)


def _doubled(uri: SipUri) -> bool:
    return uri.parameters.get("r2") == "on"


def prepare(request: Request, target: ForwardTarget, breadth: int) -> Request:
    """Build the copy for one branch (RFC 3261 section 16.6 steps 1 to 6), still without Via."""
    copy = request.copy()
    if target.uri:
        copy.uri = _request_uri(target.uri)
    forwards = request.max_forwards
    copy.headers.set("Max-Forwards", 70 if forwards is None else max(0, forwards - 1))
    copy.headers.set("Max-Breadth", breadth)
    if target.record_route is not None:
        add_record_route(copy, target.record_route)
    for name, value in target.headers:
        if value is None:
            copy.headers.remove(name)
        else:
            copy.headers.set(name, value)
    for route in reversed(target.routes):
        copy.headers.prepend("Route", route)
    first = copy.headers.first_element("Route")
    if first is not None:
        hop = NameAddr.parse(first, "Route").uri
        if not (isinstance(hop, SipUri) and hop.loose_router):
            # Step 6: the next hop is a strict router, so it gets its own URI as Request-URI.
            copy.headers.pop_element("Route")
            last = f"<{copy.uri}>"
            rest = copy.headers.elements("Route")
            copy.headers.set("Route", ", ".join([*rest, last]))
            copy.uri = _request_uri(str(hop))
    return copy


def _request_uri(text: str) -> str:
    """Drop what a Request-URI may not have (RFC 3261 section 19.1.1 table 1)."""
    uri = parse_uri(text, "Request-URI")
    if isinstance(uri, SipUri) and (uri.headers is not None or "method" in uri.parameters):
        return str(replace(uri, headers=None).without_parameters("method"))
    return text


def incoming_breadth(request: Request) -> int:
    """Return the Max-Breadth of a received request, `MAXIMUM_BREADTH` at most and if there is none."""
    text = request.headers.get("Max-Breadth")
    if text is None:
        return MAXIMUM_BREADTH
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) == 0:
        raise SipParseError(
            "a number above 0 is needed", where="Max-Breadth", clause="RFC 5393 section 5.3.1", found=text
        )
    return min(int(text), MAXIMUM_BREADTH)


def next_hop(request: Request) -> SipUri | None:
    """Return the URI that decides where ``request`` goes (step 7); ``None`` if it is neither SIP nor SIPS."""
    first = request.headers.first_element("Route")
    # After step 6 the first Route is a loose router's, or the Request-URI is the strict router's own.
    uri = request.request_uri
    if first is not None:
        hop = NameAddr.parse(first, "Route").uri
        if isinstance(hop, SipUri) and hop.loose_router:
            if isinstance(uri, SipUri) and uri.scheme == "sips":
                return replace(hop, scheme="sips")
            uri = hop
    return uri if isinstance(uri, SipUri) else None


def literal_destination(uri: SipUri) -> Target | None:
    """Return where a URI with an IP address points to (RFC 3263 section 4.1, 4.2); ``None`` for a name."""
    host = (uri.parameters.get("maddr") or uri.host).strip("[]")
    try:
        ip_address(host)
    except ValueError:
        return None
    default: Transport = "TLS" if uri.scheme == "sips" else "UDP"
    transport = _TRANSPORTS.get(uri.transport or "", default)
    if uri.scheme == "sips" and transport in ("TCP", "UDP"):
        transport = "TLS"
    if uri.scheme == "sips" and transport == "WS":
        transport = "WSS"
    return Target(transport, (host, uri.port or DEFAULT_PORTS[transport]))


def add_record_route(request: Request, record_route: RecordRoute) -> None:
    """Put one value, or two where the sides differ, in front of the Record-Route list."""
    previous, following = (
        uri if uri.loose_router else uri.with_parameter("lr") for uri in (record_route.previous, record_route.next)
    )
    if previous != following:
        previous, following = (uri.with_parameter("r2", "on") for uri in (previous, following))
        request.headers.prepend("Record-Route", f"<{previous}>")
    request.headers.prepend("Record-Route", f"<{following}>")


def add_path(register: Request, uri: SipUri, *, require: bool = True) -> bool:
    """Put ``uri`` in front of the Path of a REGISTER (RFC 3327 section 5.2); ``require`` adds the option tag.

    Returns False, and changes nothing, if the UA does not support Path: the proxy answers 421 then.
    """
    if "path" not in register.supported:
        return False
    register.headers.prepend("Path", f"<{uri if uri.loose_router else uri.with_parameter('lr')}>")
    if require and "path" not in register.require:
        register.headers.add("Require", "path")
    return True


def route_values(headers: Headers, name: str) -> tuple[str, ...]:
    """Return the values of Path or Service-Route as `ForwardTarget.routes` takes them.

    A registrar keeps the Path of a REGISTER with the binding and forwards to the contact with it (RFC 3327 section
    5.4); a UA or its proxy keeps the Service-Route of the 200 (RFC 3608 section 6).
    """
    return tuple(value for line in headers.get_all(name) if line for value in split_list(line, name))


def destinations_of(target: ForwardTarget, request: Request) -> tuple[Flow | Target, ...] | SipUri | None:
    """Return the destinations of a prepared request, or the URI to resolve, or ``None`` if there is no way."""
    if target.destinations:
        return target.destinations
    uri = next_hop(request)
    if uri is None:
        return None
    literal = literal_destination(uri)
    return uri if literal is None else (literal,)
