"""The WWPF's configuration.  Requirement S7-WWPF."""

from pathlib import Path

import pytest

from imskit.secrets import Secret
from ue_agent.wwpf.config import Address, AgentSocket, Browser, Handover, Site, WwpfConfig, host_name

FULL = WwpfConfig(
    listen=Address("127.0.0.1", 8080),
    pac=Address("127.0.0.1", 8079),
    state=Path("/var/lib/x"),
    operator_domains=("ims.example", "second.example"),
    direct_hosts=("turn.ims.example",),
    portals=(Site("portal.ims.example", 443),),
    websockets=(Site("ws.ims.example", 443),),
    browsers=(Browser("/usr/lib/chromium/chromium", 1000), Browser("/usr/lib/firefox/firefox")),
    trust=Path("/etc/x.pem"),
    handover=Handover(Address("127.0.0.1", 5066), Secret("sif-secret")),
    agent=AgentSocket(Path("/run/x.sock"), Secret("agent-secret")),
)


def test_it_travels_whole() -> None:
    assert WwpfConfig.from_json(FULL.to_json()) == FULL
    bare = WwpfConfig(Address("::1", 1), None, Path("s"), ("ims.example",))
    assert WwpfConfig.from_json(bare.to_json()) == bare


def test_secrets_do_not_show() -> None:
    assert "sif-secret" not in repr(FULL)
    assert "agent-secret" not in repr(FULL)
    assert "\n" not in FULL.to_json()


@pytest.mark.parametrize(
    ("host", "theirs", "intercepted"),
    [
        ("portal.ims.example", True, True),
        ("IMS.example.", True, True),
        ("a.second.example", True, True),
        ("turn.ims.example", True, False),
        ("TURN.ims.example.", True, False),
        ("xims.example", False, False),
        ("ims.example.evil.example", False, False),
        ("203.0.113.1", False, False),
    ],
)
def test_whose_host_it_is(host: str, theirs: bool, intercepted: bool) -> None:
    assert (FULL.is_operators(host), FULL.intercepts(host)) == (theirs, intercepted)


def test_sites() -> None:
    assert Site.parse("https://Portal.ims.example") == ("portal.ims.example", 443)
    assert Site.parse("wss://ws.ims.example:8443/", "wss") == ("ws.ims.example", 8443)
    assert Site("p.example", 443).origin == "https://p.example"
    assert Site("p.example", 8443).origin == "https://p.example:8443"
    for text in (
        "http://p.example",
        "https://p.example/path",
        "https://user@p.example",
        "https://127.0.0.1",
        "https://",
    ):
        with pytest.raises(ValueError, match=r".+"):
            Site.parse(text)


def test_addresses() -> None:
    assert Address.parse("[::1]:80") == ("::1", 80)
    assert str(Address("::1", 80)) == "[::1]:80"
    for text in ("8080", "127.0.0.1", "a:b", "a:99999"):
        with pytest.raises(ValueError, match="no ADDRESS:PORT"):
            Address.parse(text)


@pytest.mark.parametrize(
    "change",
    [
        {"operator_domains": ()},
        {"operator_domains": ("IMS.example",)},
        {"portals": (Site("portal.other.example", 443),)},
        {"direct_hosts": ("turn.other.example",)},
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object]) -> None:
    values = {"listen": Address("127.0.0.1", 1), "pac": None, "state": Path("s"), "operator_domains": ("ims.example",)}
    with pytest.raises(ValueError, match=r".+"):
        WwpfConfig(**(values | change))  # type: ignore[arg-type]


def test_host_names() -> None:
    assert host_name("A.Example.") == "a.example"
    for text in ("", "a..b", "-a.example", "a b", "1.2.3.4", "a" * 64 + ".example"):
        with pytest.raises(ValueError, match="no host name"):
            host_name(text)
