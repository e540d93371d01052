"""REGISTER through the eP-CSCF in the three scenarios of TS 24.371 [A-REG1, A-REG2, A-REG3]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imskit.secrets import Identity
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.message import Request, Response, response_to
from network_edge.ep_cscf.engine.effects import (
    Draining,
    RegistrationStep,
    TokenAccepted,
    TokenClaims,
    ValidateToken,
)
from network_edge.ep_cscf.engine.settings import EpCscfSettings

HOME = "ims.example"
ALICE, BOB = f"sip:+15550300@{HOME}", f"sip:+15550200@{HOME}"
IMPI = f"alice@{HOME}"
TOKEN = "aaaa.bbbb.cccc"


def digest(**more: str) -> str:
    fields = {"username": IMPI, "realm": HOME, "nonce": "n", "uri": f"sip:{HOME}", "response": "0" * 32} | more
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())


def registered(world: Any) -> Request:
    return world.to_core("REGISTER")[-1]


def accept_messages(request: Request) -> Response | None:
    return response_to(request, 200, to_tag="x") if request.method == "MESSAGE" else None


# ---- scenarios 2 and 3: access token ------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [f"Bearer {TOKEN}", f'Bearer access_token="{TOKEN}"', f"bearer {TOKEN}"])
def test_a_token_becomes_a_trusted_registration(edge_world: Any, spelling: str) -> None:
    """A-REG2: RFC 8898 and TS 24.371 spell it differently; the core gets auth-done and the WWSF's name (TNA)."""
    alice = edge_world.client()
    response = alice.register(("Authorization", spelling))
    assert response.status == 200
    request = registered(edge_world)
    (authorization,) = request.headers.get_all("Authorization")
    credentials = Credentials.parse(authorization)
    assert credentials.is_digest
    assert credentials.username == IMPI
    assert (credentials.realm, credentials.uri) == (HOME, f"sip:{HOME}")
    assert (credentials.nonce, credentials.response) == ("", "")
    assert credentials.get("integrity-protected") == "auth-done"
    assert credentials.get("authorization-entity") == "wwsf.example"
    assert TOKEN.encode() not in request.encode()
    assert request.uri == f"sip:{HOME}"
    assert request.headers.get("P-Visited-Network-ID") == '"edge.example"'
    assert 'orig-ioi="Type 1edge.example"' in request.headers.get("P-Charging-Vector")
    assert request.headers.get("P-Access-Network-Info") == "IEEE-802.11;network-provided"
    path = request.path[0].uri
    assert (path.host, path.port) == ("10.45.0.3", 5060)
    assert "ob" in path.parameters and "lr" in path.parameters and len(path.user) == 32
    assert "path" in request.require
    # The client learns nothing of the core's ways.
    assert "Path" not in response.headers
    assert "P-Charging-Vector" not in response.headers
    assert [step.kind.value for step in edge_world.steps(RegistrationStep)] == ["registered"]


def test_the_parameter_of_the_web_server_has_the_name_that_is_configured(make_edge: Callable[..., Any]) -> None:
    world = make_edge(EpCscfSettings(HOME, "edge.example", authorization_entity="waf-id"))
    world.client().register_with_token()
    assert Credentials.parse(registered(world).headers.get("Authorization")).get("waf-id") == "wwsf.example"


def test_the_token_bounds_the_registration(edge_world: Any) -> None:
    """A-REG2: towards the core, in the answer, and in what is served here."""
    edge_world.life = 120.5
    alice = edge_world.client()
    response = alice.register_with_token(expires=600)
    assert registered(edge_world).contacts[0].expires == 120
    assert response.contacts[0].expires == 120
    edge_world.on_request = lambda request: (
        response_to(request, 200, to_tag="x") if request.method == "MESSAGE" else None
    )
    assert alice.ask("MESSAGE", BOB).status == 200
    edge_world.run(121)
    assert alice.ask("MESSAGE", BOB).status == 403
    assert [step.kind.value for step in edge_world.steps(RegistrationStep)] == ["registered", "expired"]


def test_a_core_that_grants_more_than_the_token_is_not_believed(edge_world: Any) -> None:
    edge_world.life = 60.0

    def generous(request: Request) -> Response | None:
        if request.method != "REGISTER":
            return None
        response = response_to(request, 200, to_tag="x")
        response.headers.add("Contact", request.contacts[0].with_parameter("expires", "86400"))
        return response

    edge_world.on_request = generous
    alice = edge_world.client()
    assert alice.register_with_token().contacts[0].expires == 60
    edge_world.run(61)
    assert alice.ask("MESSAGE", BOB).status == 403


@pytest.mark.parametrize(
    ("error", "status"), [("invalid_token", 401), ("insufficient_scope", 403), ("unavailable", 503)]
)
def test_a_refused_token(make_edge: Callable[..., Any], error: str, status: int) -> None:
    """A-REG2: forged, expired and replayed-after-log-out tokens are invalid; when nobody can tell: try again."""
    world = make_edge(EpCscfSettings(HOME, "edge.example", authz_server="https://portal.example"))
    world.refused_tokens["bad"] = error
    response = world.client().register(("Authorization", "Bearer bad"))
    assert response.status == status
    assert not world.to_core("REGISTER")
    if status == 503:
        assert int(response.headers.get("Retry-After")) > 0
    else:
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate"))
        assert challenge.is_bearer
        assert challenge.get("error") == error
        assert challenge.get("authz_server") == "https://portal.example"


def test_an_expired_token_at_refresh(edge_world: Any) -> None:
    """A-REG2: the refresh is refused; what the old token gave runs out."""
    alice = edge_world.client()
    edge_world.life = 100.0
    assert alice.register_with_token().status == 200
    edge_world.run(50)
    del edge_world.claims[TOKEN]
    response = alice.register_with_token()
    assert response.status == 401
    assert Challenge.parse(response.headers.get("WWW-Authenticate")).get("error") == "invalid_token"
    edge_world.run(51)
    assert edge_world.edge.registrations == 0


@pytest.mark.parametrize(
    "fields",
    [
        [("To", f"<{BOB}>"), ("From", f"<{BOB}>;tag=x")],
        [("To", f"<{BOB}>")],
        [("From", f"<{BOB}>;tag=x")],
        [("To", "<sip:+15550300@evil.example>"), ("From", "<sip:+15550300@evil.example>;tag=x")],
    ],
)
def test_an_identity_that_is_not_in_the_token(edge_world: Any, fields: list[tuple[str, object]]) -> None:
    """A-REG2: To and From must be the token's (TS 24.371 6.4)."""
    response = edge_world.client().register(("Authorization", f"Bearer {TOKEN}"), *fields)
    assert response.status == 403
    assert not edge_world.to_core("REGISTER")


def test_another_spelling_of_the_identity_is_the_same(edge_world: Any) -> None:
    alice = edge_world.client()
    alice.impu = "tel:+1-555-0300"
    assert alice.register_with_token().status == 200


def test_a_token_at_another_flow(edge_world: Any) -> None:
    """A-REG2: the same user may come back with it; nobody becomes another user by it."""
    alice, thief = edge_world.client(), edge_world.client("thief")
    assert alice.register_with_token().status == 200
    assert thief.register_with_token(("To", f"<{BOB}>"), ("From", f"<{BOB}>;tag=x")).status == 403
    alice.reconnect()
    assert alice.register_with_token().status == 200


def test_two_tokens_are_none(edge_world: Any) -> None:
    response = edge_world.client().register(
        ("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other.token.x")
    )
    assert response.status == 400
    assert not edge_world.asked


def test_a_client_cannot_mark_itself_as_authenticated(edge_world: Any) -> None:
    """A-REG2: auth-done from a client is removed, with a token and without."""
    forged = digest(**{"integrity-protected": "auth-done", "authorization-entity": "wwsf.example", "nonce": ""})
    edge_world.client().register(("Authorization", forged))
    text = registered(edge_world).headers.get("Authorization")
    assert "auth-done" not in text and "authorization-entity" not in text
    edge_world.claims["evil"] = TokenClaims(
        Identity(IMPI), (Identity(ALICE),), Identity("a"), "i", "other.example", 2e9
    )
    edge_world.client("two").register(("Authorization", "Bearer evil"), ("Authorization", forged))
    (only,) = registered(edge_world).headers.get_all("Authorization")
    assert Credentials.parse(only).get("authorization-entity") == "other.example"


def test_what_the_core_does_not_trust_is_no_digest_challenge(edge_world: Any) -> None:
    """A client that has a token has no password for the core's challenge."""

    def challenge(request: Request) -> Response | None:
        response = response_to(request, 401, to_tag="x")
        response.headers.add("WWW-Authenticate", 'Digest realm="x", nonce="y"')
        return response

    edge_world.on_request = challenge
    response = edge_world.client().register_with_token()
    assert response.status == 403
    assert "WWW-Authenticate" not in response.headers


def test_identities_of_a_pool_stay_apart(edge_world: Any) -> None:
    """A-REG3: many users share one private identity; each may use its own public one only."""
    one, two = f"sip:+15550301@{HOME}", f"sip:+15550302@{HOME}"
    edge_world.associated = f"<sip:+155503!.*!@{HOME}>, <{two}>"
    edge_world.claims = {
        "t1": TokenClaims(Identity("pool@x"), (Identity(one),), Identity("1"), "i", "third.example", 2e9),
        "t2": TokenClaims(Identity("pool@x"), (Identity(two),), Identity("2"), "i", "third.example", 2e9),
    }
    first, second = edge_world.client("first"), edge_world.client("second")
    first.impu, second.impu = one, two
    answer = first.register(("Authorization", "Bearer t1"))
    assert answer.headers.get_all("P-Associated-URI") == [f"<{one}>"]
    assert second.register(("Authorization", "Bearer t2")).status == 200
    edge_world.on_request = lambda request: (
        response_to(request, 200, to_tag="x") if request.method == "MESSAGE" else None
    )
    assert first.ask("MESSAGE", BOB, ("P-Preferred-Identity", f"<{two}>")).status == 200
    assert edge_world.to_core("MESSAGE")[-1].headers.get("P-Asserted-Identity") == f"<{one}>"
    assert first.ask("MESSAGE", BOB, ("From", f"<{two}>;tag=f")).status == 403


def test_a_token_of_another_of_the_pool(edge_world: Any) -> None:
    """A-REG3: one private identity, and still another user."""
    one, two = f"sip:+15550301@{HOME}", f"sip:+15550302@{HOME}"
    edge_world.claims = {
        name: TokenClaims(Identity("pool@x"), (Identity(impu),), Identity(name), "i", "third.example", 2e9)
        for name, impu in (("t1", one), ("t2", two))
    }
    first = edge_world.client("first")
    first.impu = one
    assert first.register(("Authorization", "Bearer t1")).status == 200
    assert first.ask("MESSAGE", BOB, ("Authorization", "Bearer t2")).status == 403
    edge_world.on_request = accept_messages
    assert first.ask("MESSAGE", BOB, ("Authorization", "Bearer t1")).status == 200


def test_a_private_identity_cannot_inject_anything(edge_world: Any) -> None:
    """Quotes in a claim stay inside the quotes."""
    evil = 'a", integrity-protected="yes", x="\\'
    edge_world.claims[TOKEN] = TokenClaims(Identity(evil), (Identity(ALICE),), Identity("a"), "i", "w", 2e9)
    edge_world.client().register_with_token()
    credentials = Credentials.parse(registered(edge_world).headers.get("Authorization"))
    assert credentials.username == evil
    assert credentials.get("integrity-protected") == "auth-done"


def test_a_late_answer_about_a_token_is_dropped(edge_world: Any) -> None:
    edge_world.hold_tokens = True
    alice = edge_world.client()
    alice.register_with_token()
    (question,) = edge_world.steps(ValidateToken)
    edge_world.close(alice)
    edge_world.feed(TokenAccepted(question.key, edge_world.claims[TOKEN], 60.0))
    edge_world.feed(TokenAccepted(question.key, edge_world.claims[TOKEN], 60.0))
    assert not edge_world.to_core("REGISTER")
    assert edge_world.edge.registrations == 0


# ---- scenario 1: digest end to end ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_a_digest_passes_end_to_end(edge_world: Any, algorithm: str) -> None:
    """A-REG1: challenge and answer are not touched; over TLS the edge says so."""
    challenge = f'Digest realm="{HOME}", nonce="abc", algorithm={algorithm}, qop="auth", ik="00", ck="11"'

    def core(request: Request) -> Response | None:
        if request.method != "REGISTER" or 'response="' in (request.headers.get("Authorization") or ""):
            return None
        response = response_to(request, 401, to_tag="x")
        response.headers.add("WWW-Authenticate", challenge)
        return response

    edge_world.on_request = core
    alice = edge_world.client()
    first = alice.register()
    assert first.status == 401
    assert "Authorization" not in registered(edge_world).headers
    heard = Challenge.parse(first.headers.get("WWW-Authenticate"))
    assert (heard.nonce, heard.algorithm, heard.get("qop")) == ("abc", algorithm, "auth")
    assert heard.get("ik") is None and heard.get("ck") is None
    answer = f"{digest(nonce='abc', cnonce='c')}, algorithm={algorithm}, qop=auth, nc=00000001"
    assert alice.register(("Authorization", answer)).status == 200
    sent = Credentials.parse(registered(edge_world).headers.get("Authorization"))
    assert sent.response == "0" * 32 and sent.cnonce == "c" and sent.nc == 1
    assert sent.get("integrity-protected") == "tls-pending"
    # A refresh over the connection of the registration.
    alice.register(("Authorization", answer))
    refreshed = Credentials.parse(registered(edge_world).headers.get("Authorization"))
    assert refreshed.get("integrity-protected") == "tls-yes"
    # Nobody else gets that for naming the same user.
    edge_world.client("mallory").register(("Authorization", answer))
    foreign = Credentials.parse(registered(edge_world).headers.get("Authorization"))
    assert foreign.get("integrity-protected") == "tls-pending"


def test_aka_over_tls(edge_world: Any) -> None:
    """A-REG1: AKAv2 inside TLS (TS 33.203 annex X)."""
    edge_world.client().register(("Authorization", digest() + ", algorithm=AKAv2-SHA-256"))
    sent = Credentials.parse(registered(edge_world).headers.get("Authorization"))
    assert sent.get("integrity-protected") == "tls-connected"


def test_behind_a_proxy_that_ends_tls(edge_world: Any) -> None:
    edge_world.client(transport="WS").register(("Authorization", digest()))
    sent = Credentials.parse(registered(edge_world).headers.get("Authorization"))
    assert sent.get("integrity-protected") == "ip-assoc-pending"


def test_a_user_who_only_claims_a_name_is_not_taken_for_registered(edge_world: Any) -> None:
    """A-REG1: a 401 makes no registration."""
    edge_world.on_request = lambda request: response_to(request, 401, to_tag="x")
    alice = edge_world.client()
    assert alice.register(("Authorization", digest())).status == 401
    assert alice.ask("MESSAGE", BOB).status == 403
    assert edge_world.edge.registrations == 0


# ---- both ----------------------------------------------------------------------------------------------------


def test_too_short_a_registration(edge_world: Any) -> None:
    response = edge_world.client().register_with_token(expires=5)
    assert response.status == 423
    assert response.min_expires == 30


@pytest.mark.parametrize("everything", [False, True])
def test_taking_off_the_register(edge_world: Any, everything: bool) -> None:
    alice = edge_world.client()
    assert alice.register_with_token().status == 200
    fields = [("Contact", "*"), ("Expires", 0)] if everything else []
    assert alice.register_with_token(*fields, expires=0).status == 200
    assert edge_world.edge.registrations == 0
    assert alice.ask("MESSAGE", BOB).status == 403
    assert [step.kind.value for step in edge_world.steps(RegistrationStep)] == ["registered", "deregistered"]


def test_the_core_is_gone_for_a_while(edge_world: Any) -> None:
    """The client is told when to come again, and can."""
    alice = edge_world.client()
    edge_world.core_unreachable = True
    response = alice.register_with_token()
    assert response.status == 503
    assert "Retry-After" in response.headers
    edge_world.core_unreachable = False
    assert alice.register_with_token().status == 200


def test_draining_refuses_new_registrations_only(edge_world: Any) -> None:
    alice, late = edge_world.client(), edge_world.client("late")
    assert alice.register_with_token().status == 200
    edge_world.feed(Draining(True))
    response = late.register_with_token()
    assert response.status == 503 and "Retry-After" in response.headers
    assert alice.register_with_token().status == 200
    edge_world.feed(Draining(False))
    assert late.register_with_token().status == 200


def test_over_tcp_towards_the_core(make_edge: Callable[..., Any]) -> None:
    """A-EPCSCF: Mw over TCP; the ways back to us say so, and the Service-Route's host is reached the same way."""
    world = make_edge(transport="TCP")
    alice = world.client()
    assert alice.register_with_token().status == 200
    assert world.path().uri.transport == "tcp"
    assert registered(world).top_via.transport == "TCP"
    world.on_request = accept_messages
    assert alice.ask("MESSAGE", BOB).status == 200
    alice.send(alice.build("INVITE", BOB))
    mw, w2 = world.to_core("INVITE")[0].record_routes
    assert (mw.uri.transport, w2.uri.transport) == ("tcp", "ws")


def test_what_a_client_may_not_say_in_register(edge_world: Any) -> None:
    """A-EPCSCF: TS 24.229 clause 4.4."""
    forged = [
        ("Path", "<sip:evil.example;lr>"),
        ("Route", "<sip:evil.example;lr>"),
        ("P-Visited-Network-ID", '"home"'),
        ("P-Charging-Vector", "icid-value=evil"),
        ("P-Asserted-Identity", f"<{BOB}>"),
        ("P-Access-Network-Info", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=1;network-provided"),
        ("Service-Route", "<sip:evil.example;lr>"),
        ("Security-Client", "ipsec-3gpp"),
    ]
    edge_world.client().register_with_token(*forged)
    text = registered(edge_world).encode()
    assert b"evil" not in text and b"E-UTRAN" not in text and b"ipsec-3gpp" not in text
    assert registered(edge_world).headers.get_all("P-Visited-Network-ID") == ['"edge.example"']


@pytest.mark.parametrize(
    "line",
    [
        b"From: <sip:+15550300@ims.example>;tag=a\rP-Asserted-Identity: <sip:evil@x>\r\n",
        b"From: <sip:+15550300@ims.example>;tag=a\nP-Asserted-Identity: <sip:evil@x>\r\n",
        b"From: <sip:+15550300@ims.example>;tag=a\0\r\n",
        b"X-Long: " + b"a" * 66000 + b"\r\n",
    ],
)
def test_header_injection(edge_world: Any, line: bytes) -> None:
    """Lines that hide in lines, and 64 kB of header, never get past the parser."""
    alice = edge_world.client()
    head = (
        f"REGISTER sip:{HOME} SIP/2.0\r\nVia: SIP/2.0/WSS x.invalid;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n"
        f"To: <{ALICE}>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@b.invalid>\r\n"
        f"Authorization: Bearer {TOKEN}\r\n"
    ).encode()
    alice.send(head + line + b"\r\n")
    assert not edge_world.core
    alice.send(head + b"From: <sip:+15550300@ims.example>;tag=a\r\n\r\n")
    assert edge_world.to_core("REGISTER")
