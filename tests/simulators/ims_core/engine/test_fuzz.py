"""Whatever arrives at Gm: neither CSCF raises, and both serve the next UE."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imskit.sip.engine.events import Received
from imskit.sip.wire.flow import Flow, Transport
from imskit.sip.wire.message import Request, Response, response_to

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
GM = ("10.45.0.1", 5060)

_HEADERS = [
    "Via",
    "Route",
    "Record-Route",
    "Contact",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Max-Forwards",
    "Authorization",
    "Require",
    "Proxy-Require",
    "Supported",
    "Expires",
    "Path",
    "Service-Route",
    "P-Preferred-Identity",
    "P-Asserted-Identity",
    "P-Access-Network-Info",
    "Privacy",
    "Event",
    "Accept",
    "Request-Disposition",
    "Max-Breadth",
    "Content-Length",
    "Content-Type",
    "P-Charging-Vector",
    "RAck",
    "Session-Expires",
]
_VALUES = st.one_of(
    st.sampled_from(
        [
            "", "*", "<sip:", "<sip:10.45.0.1;lr>", "<sip:127.0.0.1:5070;lr>", "sip:a@b;tag=", "1 REGISTER", "0",
            "-1", "4294967296", "9" * 40, '"', "Digest", 'Digest username="', "Bearer x", ";;;", ",,,,", "\x7f", "é",
            f"<sip:{DOMAIN}>", "<tel:+15550100>", "reg;id=1", "id;header", "a" * 3000, "<urn:service:sos>", "path",
            "SIP/2.0/UDP 10.45.0.2:5060;branch=z9hG4bK", "SIP/2.0/TCP [::1]:0;rport=x;branch=1", "z=1;z=2",
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\r\n"), max_size=60),
)  # fmt: skip
_CHANGES = st.tuples(st.sampled_from(["set", "add", "drop"]), st.sampled_from(_HEADERS), _VALUES)


class Core:
    """A world with one registered UE in a call, and the messages that it sent."""

    def __init__(self, world: Any) -> None:
        self.world = world
        a, b = world.raw("0100", "10.45.0.2"), world.raw("0200", "10.46.0.2")

        def pick_up(request: Request) -> Response | None:
            if request.method == "ACK":
                return None
            response = response_to(request, 200, to_tag="b")
            response.headers.add("Contact", b.contact)
            return response

        b.answer = pick_up
        b.register()
        register = a.request("REGISTER", f"sip:{DOMAIN}", *a.register_fields())
        challenge = a.ask(register)
        authenticated = a.authenticated(challenge)
        assert a.ask(authenticated).status == 200
        invite = a.request("INVITE", "tel:+15550200", ("Call-ID", "call"), ("Privacy", "none"))
        answer = a.ask(invite)
        route = ("Route", ", ".join(reversed(answer.headers.elements("Record-Route"))))
        subscribe = a.request("SUBSCRIBE", a.impu, ("Event", "reg"), ("Accept", "application/reginfo+xml"))
        requests = [
            register,
            authenticated,
            a.request("REGISTER", f"sip:{DOMAIN}", *a.register_fields(), ("Contact", "*"), ("Expires", 0)),
            invite,
            a.request("ACK", b.contact[1:-1], ("Call-ID", "call"), route, to=str(answer.to)),
            a.request("BYE", b.contact[1:-1], ("Call-ID", "call"), route, to=str(answer.to)),
            a.request("CANCEL", "tel:+15550200", ("Call-ID", "call")),
            subscribe,
            a.request("MESSAGE", f"sip:+15550200@{DOMAIN}"),
        ]
        seen = b.requests("INVITE")[0]
        responses = [response_to(seen, status, to_tag="b") for status in (180, 200, 486)]
        self.templates = [message.encode() for message in (*requests, *responses)]
        self.probes = 0

    def feed(self, data: bytes, transport: Transport = "UDP", remote: tuple[str, int] = ("10.45.0.2", 5060)) -> None:
        self.world.p_cscf.handle(Received(data, Flow(transport, GM, remote, 1)), self.world.now)
        self.world.run(0.03)

    def serves(self) -> None:
        """A UE that comes now is challenged."""
        self.probes += 1
        ue = self.world.raw("0200", "10.46.0.9", 6000 + self.probes)
        assert ue.ask(ue.request("REGISTER", f"sip:{DOMAIN}", *ue.register_fields())).status == 401


@pytest.fixture
def core(world: Any) -> Core:
    return Core(world)


def _fuzz_settings(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_fuzz_settings(300)
@given(
    number=st.integers(0, 11),
    changes=st.lists(
        st.tuples(st.sampled_from(["set", "add", "drop"]), st.sampled_from(_HEADERS), _VALUES), max_size=4
    ),
    line=st.none() | _VALUES,
    remote=st.sampled_from([("10.45.0.2", 5060), ("10.46.0.2", 5060), ("10.45.0.66", 1)]),
    transport=st.sampled_from(["UDP", "TCP"]),
)
def test_headers_out_of_order(
    core: Core, number: int, changes: Any, line: str | None, remote: Any, transport: Any
) -> None:
    """Real messages with headers changed, added, dropped."""
    head, _, body = core.templates[number].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for kind, name, value in changes:
        field = f"{name}: {value}".encode("latin-1", "replace")
        at = next((i for i, text in enumerate(lines) if text.lower().startswith(f"{name.lower()}:".encode())), None)
        if kind == "add" or (kind == "set" and at is None):
            lines.insert(1, field)
        elif at is not None:
            lines[at : at + 1] = [field] if kind == "set" else []
    if line is not None:
        first = lines[0].split(b" ")
        first[1] = line.encode("latin-1", "replace")
        lines[0] = b" ".join(first)
    core.feed(b"\r\n".join(lines) + b"\r\n\r\n" + body, transport, remote)


@_fuzz_settings(200)
@given(number=st.integers(0, 11), start=st.integers(0, 1500), length=st.integers(0, 80), noise=st.binary(max_size=80))
def test_bytes_out_of_place(core: Core, number: int, start: int, length: int, noise: bytes) -> None:
    """Real messages with some bytes replaced, and noise alone."""
    data = core.templates[number]
    core.feed(data[:start] + noise + data[start + length :])
    core.feed(noise)


def test_truncation_at_each_byte(core: Core) -> None:
    for template in core.templates:
        for end in range(0, len(template), 3):
            core.world.p_cscf.handle(Received(template[:end], Flow("UDP", GM, ("10.45.0.2", 5060), 1)), core.world.now)
        core.world.run(1)
    core.serves()


def test_it_serves_after_all_that(core: Core) -> None:
    """The same, once more in one life: what the noise has left behind does no harm."""
    for round_number in range(60):
        for number, template in enumerate(core.templates):
            at = (round_number * 131 + number * 17) % len(template)
            core.feed(template[:at] + bytes([round_number * 4 % 256]) * 3 + template[at + 3 :])
    core.serves()
    core.world.run(400)
    assert len(core.world.p_cscf._contexts) == 0
    assert core.world.p_cscf._proxy.contexts == 0
