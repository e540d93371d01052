"""What the core believes of a network edge, and of whom else (TS 33.203 annexes N, U and X) [A-REG1 A-REG2 A-REG3]."""

from __future__ import annotations

from typing import Any

import pytest

from imskit.engine import Tick
from imskit.secrets import Secret
from imskit.sip import digest
from imskit.sip.engine.events import Received, Transmit
from imskit.sip.wire.auth import Challenge, Credentials
from imskit.sip.wire.flow import Address, Flow, Target
from imskit.sip.wire.message import Request, Response, response_to
from imskit.sip.wire.uri import parse_uri
from simulators.ims_core.engine.i_cscf import TrustedEdge
from simulators.ims_core.engine.s_cscf import Deregister, SCscf, WebServersChanged
from simulators.ims_core.subscribers import Hss, WebSubscriberConfig

HOME = "ims.example"
CORE: Address = ("10.45.0.1", 5062)
EDGE: Address = ("10.45.0.3", 5060)
P_CSCF: Address = ("10.45.0.1", 5061)
SERVER: Address = ("10.45.0.4", 5090)
STRANGER: Address = ("10.45.0.66", 5060)
WWSF = "wwsf.ims.example"
PASSWORD = "correct horse"


class Core:
    """An S-CSCF on a virtual clock, and a network element that says what a test wants."""

    def __init__(self) -> None:
        self.hss = Hss(
            [],
            lambda count: bytes(count),
            lambda: 0.0,
            [
                WebSubscriberConfig(f"alice@{HOME}", [f"sip:alice@{HOME}", "tel:+15550400"], web_servers=[WWSF]),
                WebSubscriberConfig(f"bob@{HOME}", [f"sip:bob@{HOME}"], Secret(PASSWORD)),
                WebSubscriberConfig(
                    f"guest![0-9]{{4}}!@{HOME}", [f"sip:guest![0-9]{{4}}!@{HOME}"], web_servers=["other.example", WWSF]
                ),
            ],
        )
        self.number = 0
        self.now = 100.0
        edges = [TrustedEdge(EDGE[0], HOME)]

        self.engine = SCscf(
            self.hss,
            HOME,
            Target("UDP", CORE),
            [P_CSCF],
            ["AKAv1-MD5"],
            self.tokens,
            edges=edges,
            services={f"sms.{HOME}": Target("UDP", SERVER)},
        )
        self.sent: list[Request | Response] = []

    def tokens(self, digits: int) -> str:
        self.number += 1
        return f"{self.number:0{digits}x}"

    def run(self, event: Any) -> None:
        self.engine.handle(event, self.now)
        while (output := self.engine.poll()) is not None:
            if isinstance(output, Transmit):
                self.sent.append(output.message)

    def give(self, message: Request | Response, source: Address = EDGE) -> None:
        self.run(Received(message, Flow("UDP", CORE, source, 0)))

    def register(
        self,
        user: str,
        authorization: Credentials | str | None,
        *fields: tuple[str, object],
        source: Address = EDGE,
        visited: str = HOME,
        expires: int = 600,
    ) -> Response:
        host, port = source
        given: list[tuple[str, object]] = [
            ("Via", f"SIP/2.0/UDP {host}:{port};branch=z9hG4bK{self.tokens(12)}"),
            ("Max-Forwards", 70),
            ("From", f"<sip:{user}@{HOME}>;tag=f"),
            ("To", f"<sip:{user}@{HOME}>"),
            ("Call-ID", f"register-{user}"),
            ("CSeq", f"{self.number} REGISTER"),
            (
                "Contact",
                f'<sip:{user}@abc.invalid;transport=ws>;+sip.instance="<urn:uuid:1>";reg-id=1;expires={expires}',
            ),
            ("Path", f"<sip:token@{EDGE[0]}:{EDGE[1]};lr;ob>"),
            ("Supported", "path, outbound"),
            ("Require", "path"),
            ("P-Visited-Network-ID", f'"{visited}"'),
            *fields,
        ]
        if authorization is not None:
            given.append(("Authorization", str(authorization)))
        self.give(Request.create("REGISTER", f"sip:{HOME}", given), source)
        answer = self.sent[-1]
        assert isinstance(answer, Response)
        return answer

    def registered(self, user: str) -> bool:
        subscriber = self.hss.by_uri(parse_uri(f"sip:{user}@{HOME}"))
        return subscriber is not None and self.engine.registrar.registration(subscriber) is not None


def vouched(user: str, entity: str | None = WWSF, protection: str = "auth-done") -> Credentials:
    more = [("integrity-protected", protection)]
    if entity is not None:
        more.append(("authorization-entity", entity))
    return Credentials.digest(
        username=f"{user}@{HOME}", realm=HOME, nonce="", uri=f"sip:{HOME}", response="", more=more
    )


@pytest.fixture
def core() -> Core:
    return Core()


def test_a_user_vouched_for_is_registered_without_a_challenge(core: Core) -> None:
    answer = core.register("alice", vouched("alice"))
    assert answer.status == 200
    assert [str(each.uri) for each in answer.addresses("P-Associated-URI")] == [f"sip:alice@{HOME}", "tel:+15550400"]
    assert list(answer.require) == ["outbound"]
    assert "Service-Route" in answer.headers


@pytest.mark.parametrize(
    ("source", "visited"),
    [(STRANGER, HOME), (EDGE, "elsewhere.example"), (P_CSCF, HOME)],
    ids=["a stranger", "another visited network", "a P-CSCF"],
)
def test_auth_done_of_anybody_else_is_refused(core: Core, source: Address, visited: str) -> None:
    answer = core.register("alice", vouched("alice"), source=source, visited=visited)
    assert answer.status == 403
    assert not core.registered("alice")


def test_a_stranger_registers_nobody(core: Core) -> None:
    assert core.register("bob", None, source=STRANGER).status == 403


def served(core: Core, method: str, source: Address, *fields: tuple[str, object], to: str = "") -> Request:
    """A request that asserts to be Alice's, to be served for her."""
    uri = f"sip:alice@{HOME}"
    request = Request.create(
        method,
        uri,
        [
            ("Via", f"SIP/2.0/UDP {source[0]}:{source[1]};branch=z9hG4bK{core.tokens(12)}"),
            ("Max-Forwards", 70),
            ("Route", f"<sip:orig@{CORE[0]}:{CORE[1]};lr>"),
            ("From", f"<{uri}>;tag=f"),
            ("To", to or f"<{uri}>"),
            ("Call-ID", core.tokens(12)),
            ("CSeq", f"1 {method}"),
            ("Contact", f"<sip:{source[0]}:{source[1]}>"),
            ("P-Asserted-Identity", f"<{uri}>"),
            *fields,
        ],
    )
    core.give(request, source)
    return request


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "SUBSCRIBE", "OPTIONS", "PUBLISH", "REFER"])
def test_what_a_stranger_asserts_is_nobodys_word(core: Core, method: str) -> None:
    """TS 24.229 clause 4.4, RFC 3325 section 5: P-Asserted-Identity counts within the trust domain."""
    core.register("alice", vouched("alice"))
    core.sent.clear()
    served(core, method, STRANGER, ("Event", "reg"))
    answer = core.sent[-1]
    assert [type(each).__name__ for each in core.sent if not (isinstance(each, Response) and each.provisional)] == [
        "Response"
    ]
    assert isinstance(answer, Response)
    assert answer.status == 403


def test_within_a_dialog_a_stranger_is_refused_too(core: Core) -> None:
    core.register("alice", vouched("alice"))
    core.sent.clear()
    served(core, "BYE", STRANGER, ("Route", f"<sip:token@{EDGE[0]}:{EDGE[1]};lr>"), to=f"<sip:alice@{HOME}>;tag=t")
    served(core, "ACK", STRANGER, ("Route", f"<sip:token@{EDGE[0]}:{EDGE[1]};lr>"), to=f"<sip:alice@{HOME}>;tag=t")
    assert [each.status for each in core.sent if isinstance(each, Response)] == [403]
    assert not [each for each in core.sent if isinstance(each, Request)]


def test_an_application_server_sends_but_registers_nobody(core: Core) -> None:
    core.register("alice", vouched("alice"))
    core.sent.clear()
    served(core, "MESSAGE", SERVER)
    assert [each.method for each in core.sent if isinstance(each, Request)] == ["MESSAGE"]
    assert core.register("alice", vouched("alice"), source=SERVER).status == 403


@pytest.mark.parametrize("entity", ["evil.example", None])
def test_a_web_server_that_is_not_on_the_list(core: Core, entity: str | None) -> None:
    assert core.register("alice", vouched("alice", entity)).status == 403
    assert not core.registered("alice")


def test_a_password_user_is_nobodys_to_vouch_for(core: Core) -> None:
    assert core.register("bob", vouched("bob")).status == 403


def test_identity_of_another(core: Core) -> None:
    assert core.register("bob", vouched("alice")).status == 403


def test_the_list_changes_while_registered(core: Core) -> None:
    core.register("alice", vouched("alice"))
    core.run(WebServersChanged(core.hss.allow(f"alice@{HOME}", [WWSF, "new.example"])))
    assert core.registered("alice")
    core.run(WebServersChanged(core.hss.allow(f"alice@{HOME}", ["new.example"])))
    assert not core.registered("alice")
    assert core.register("alice", vouched("alice")).status == 403
    assert core.register("alice", vouched("alice", "new.example")).status == 200


def test_members_of_a_range_are_registered_each_by_itself(core: Core) -> None:
    assert core.register("guest0001", vouched("guest0001")).status == 200
    assert core.registered("guest0001")
    assert not core.registered("guest0002")
    for outside in ("guest1", "guest00001", "guestabcd"):
        assert core.register(outside, vouched(outside)).status == 403


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
def test_sip_digest(core: Core, algorithm: str) -> None:
    challenged = core.register("bob", None)
    assert challenged.status == 401
    challenges = [
        Challenge.parse(value, "WWW-Authenticate") for value in challenged.headers.get_all("WWW-Authenticate")
    ]
    assert [each.algorithm for each in challenges] == ["SHA-256", "MD5"]
    chosen = digest.choose(challenges, [algorithm])
    assert chosen is not None

    def answer(password: str, nc: int) -> Credentials:
        return digest.answer(
            chosen,
            username=f"bob@{HOME}",
            password=Secret(password),
            method="REGISTER",
            uri=f"sip:{HOME}",
            nc=nc,
            cnonce="c",
        ).with_("integrity-protected", "tls-pending")

    right = answer(PASSWORD, 1)
    accepted = core.register("bob", right)
    assert accepted.status == 200
    assert "rspauth" in (accepted.headers.get("Authentication-Info") or "")
    # The same again is a replay: asked anew, and told that only the nonce was wrong.
    replayed = core.register("bob", right)
    assert replayed.status == 401
    assert "stale=true" in (replayed.headers.get("WWW-Authenticate") or "")
    assert core.register("bob", answer(PASSWORD, 2)).status == 200
    assert core.register("bob", answer("wrong", 3)).status == 403
    core.now += 301.0
    core.run(Tick())
    assert core.register("bob", answer(PASSWORD, 4)).status == 401


def test_a_digest_is_good_for_its_own_user_and_uri_only(core: Core) -> None:
    challenged = core.register("bob", None)
    challenge = Challenge.parse(challenged.headers.get("WWW-Authenticate") or "", "WWW-Authenticate")

    def answer(uri: str) -> Credentials:
        return digest.answer(
            challenge, username=f"bob@{HOME}", password=Secret(PASSWORD), method="REGISTER", uri=uri, nc=1, cnonce="c"
        )

    assert core.register("bob", answer("sip:elsewhere.example")).status == 400
    assert core.register("alice", answer(f"sip:{HOME}")).status == 403
    assert not core.registered("bob")
    assert not core.registered("alice")


def subscribe(core: Core, asserted: str, source: Address) -> Response:
    fields = [
        ("Via", f"SIP/2.0/UDP {source[0]}:{source[1]};branch=z9hG4bK{core.tokens(12)}"),
        ("Max-Forwards", 70),
        ("From", f"<sip:{source[0]}>;tag=s"),
        ("To", f"<sip:alice@{HOME}>"),
        ("Call-ID", f"subscribe-{core.tokens(4)}"),
        ("CSeq", "1 SUBSCRIBE"),
        ("Contact", f"<sip:{source[0]}:{source[1]}>"),
        ("Event", "reg"),
        ("Expires", "600"),
        ("P-Asserted-Identity", asserted),
    ]
    before = len(core.sent)
    core.give(Request.create("SUBSCRIBE", f"sip:alice@{HOME}", fields), source)
    return next(each for each in core.sent[before:] if isinstance(each, Response))


def test_an_edge_is_told_of_its_users_registrations(core: Core) -> None:
    core.register("alice", vouched("alice"))
    assert subscribe(core, f"<sip:{EDGE[0]}:{EDGE[1]}>", EDGE).status == 200
    told = core.sent[-1]
    assert isinstance(told, Request)
    assert told.method == "NOTIFY"
    assert told.uri == f"sip:{EDGE[0]}:{EDGE[1]}"
    core.give(response_to(told, 200))
    core.run(Deregister(core.hss.by_impi(f"alice@{HOME}"), "deactivated"))
    ended = core.sent[-1]
    assert isinstance(ended, Request)
    assert b'event="deactivated"' in ended.body


@pytest.mark.parametrize("asserted", [f"<sip:{EDGE[0]}:{EDGE[1]}>", f"<sip:bob@{HOME}>"])
def test_others_are_not_told(core: Core, asserted: str) -> None:
    core.register("alice", vouched("alice"))
    assert subscribe(core, asserted, STRANGER).status == 403


@pytest.mark.parametrize("uri", [f"sip:{CORE[0]}:{CORE[1]}", f"sip:{HOME}"])
@pytest.mark.parametrize(("source", "status"), [(EDGE, 200), (STRANGER, 403)])
def test_an_element_may_ask_whether_the_core_lives(core: Core, uri: str, source: Address, status: int) -> None:
    """RFC 3261 section 11.2, as supervision between elements does it."""
    host, port = source
    fields = [
        ("Via", f"SIP/2.0/UDP {host}:{port};branch=z9hG4bKoptions"),
        ("Max-Forwards", 70),
        ("From", f"<sip:{host}>;tag=f"),
        ("To", f"<{uri}>"),
        ("Call-ID", "options"),
        ("CSeq", "1 OPTIONS"),
    ]
    core.give(Request.create("OPTIONS", uri, fields), source)
    answer = core.sent[-1]
    assert isinstance(answer, Response)
    assert answer.status == status
