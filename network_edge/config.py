"""Configuration of the whole edge in one process: few settings, from which those of the parts follow."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imskit.config.model import load, setting
from imskit.secrets import Secret
from network_edge.eims_agw.config import AgwConfig
from network_edge.ep_cscf.config import EpCscfConfig
from network_edge.wwsf.config import WwsfConfig

_PAGE_PORT = 8443
_WEBSOCKET_PORT = 8444
_HTTP_PORT = 9470
_AUDIENCE = "ep-cscf"


@dataclass(frozen=True)
class EdgeConfig:
    """The network edge in one process: page and log-in (WWSF), SIP over WebSocket (eP-CSCF), media gateway (eIMS-AGW).

    The first four settings are enough.  Everything in [wwsf], [ep_cscf] and [eims_agw] that is not given follows from
    them: in these tables what shows an empty value below is filled in, and the rest shows its default.
    """

    home_domain: str = setting("home network domain name of the IMS core, such as ims.example")
    core: str = setting("the core's I-CSCF (Mw): ADDR:PORT, or a name to be looked up by RFC 3263")
    web_address: str = setting("own IP address towards browsers: page, WebSocket, their media")
    ims_address: str = setting("own IP address towards the core: Mw, and media of IMS")
    host: str = setting("name by which browsers open the page; empty: web_address", "")
    state: Path = setting(
        "folder for accounts, keys and certificate; not given: edge-state beside this file",
        factory=lambda: Path("edge-state"),
    )
    control: Path | None = setting("Unix socket of `imsbridge edge status`; not given: edge.sock in state", None)
    web_server_identity: str = setting(
        "what the core knows the page's server by (authorization-entity); empty: wwsf.<home_domain>", ""
    )
    identities: list[str] = setting(
        "public identities that log-ins may have: patterns with at most one *; empty: sip:*@<home_domain>, tel:*",
        factory=list,
    )
    private_identities: list[str] = setting("the same of private ones; empty: *@<home_domain>", factory=list)
    wwsf: WwsfConfig | None = setting("page and log-in", None)
    ep_cscf: EpCscfConfig | None = setting("SIP", None)
    eims_agw: AgwConfig | None = setting("media", None)

    def __post_init__(self) -> None:
        for name, text in (("web_address", self.web_address), ("ims_address", self.ims_address)):
            try:
                ipaddress.ip_address(text)
            except ValueError:
                raise ValueError(f"{name}: {text!r} is no IP address") from None
        if not self.own_gateway and self.eims_agw is not None:
            raise ValueError("[eims_agw] and [[ep_cscf.gateways]] exclude each other: one of them carries the media")

    @property
    def own_gateway(self) -> bool:
        """Whether the media go through this process."""
        return self.ep_cscf is None or not self.ep_cscf.gateways

    @property
    def parts(self) -> tuple[WwsfConfig, EpCscfConfig, AgwConfig | None]:
        """The configurations of the three parts; without the last, others carry the media."""
        if self.wwsf is None or self.ep_cscf is None:
            raise ValueError("an EdgeConfig is read with load_edge")
        return self.wwsf, self.ep_cscf, self.eims_agw

    @property
    def own_certificate(self) -> bool:
        """Whether the certificate is a self-signed one that this program makes."""
        return self.parts[0].certificate == self.state / "edge.crt"

    @property
    def names(self) -> list[str]:
        """Host names and addresses that the certificate must carry."""
        socket = urlsplit(self.parts[0].websocket).hostname or ""
        return list(dict.fromkeys(name for name in (self.parts[0].portal, socket, self.web_address) if name))

    @property
    def page(self) -> str:
        """URL of the page."""
        return self.parts[0].origin


def load_edge(path: Path) -> EdgeConfig:
    """Read a file; ``ConfigError`` names file, line and key of the first mistake."""
    return load(EdgeConfig, path, lambda given: complete(given, path.parent))


def is_edge(given: Mapping[str, Any]) -> bool:
    """Whether the tables of a file are those of the whole edge, not those of one part."""
    return "web_address" in given or "ims_address" in given


def complete(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Fill in what the tables of the parts leave out.  What is of the wrong kind is left for the checks to name."""

    def text(name: str) -> str:
        value = given.get(name)
        return value if isinstance(value, str) else ""

    whole = dict(given)
    state = Path(text("state")) if text("state") else folder / "edge-state"
    whole.setdefault("state", str(state))
    whole.setdefault("control", str(state / "edge.sock"))
    home, web, ims = text("home_domain"), text("web_address"), text("ims_address")
    whole.setdefault("web_server_identity", f"wwsf.{home}")
    whole.setdefault("identities", [f"sip:*@{home}", "tel:*"])
    whole.setdefault("private_identities", [f"*@{home}"])
    tls = {"certificate": str(state / "edge.crt"), "key": str(state / "edge.key")}

    wwsf, ep_cscf = (_table(whole, name) for name in ("wwsf", "ep_cscf"))
    wwsf.setdefault("portal", text("host") or web)
    wwsf.setdefault("address", web)
    wwsf.setdefault("port", _PAGE_PORT)
    ep_cscf.setdefault("wss", [_place(web, _WEBSOCKET_PORT)])
    if "certificate" not in wwsf:
        wwsf.update({name: value for name, value in tls.items() if name not in wwsf})
    if "certificate" not in ep_cscf:
        ep_cscf.update({name: wwsf[name] for name in tls if name in wwsf and name not in ep_cscf})
    wwsf.setdefault("websocket", f"wss://{_in_uri(str(wwsf['portal']))}:{_port(ep_cscf['wss'])}")
    _table(wwsf, "identities").setdefault("database", Secret(f"sqlite:///{state.absolute()}/wwsf.db"))
    tokens = _table(wwsf, "tokens")
    tokens.setdefault("audience", _AUDIENCE)
    tokens.setdefault("keys", str(state / "token-keys.json"))

    ep_cscf.setdefault("home_domain", home)
    wwsf.setdefault("public_port", wwsf["port"])
    port = "" if wwsf["public_port"] == 443 else f":{wwsf['public_port']}"
    ep_cscf.setdefault("origins", [f"https://{_in_uri(str(wwsf['portal'])).lower()}{port}"])
    mw = _table(ep_cscf, "mw")
    mw.setdefault("core", text("core"))
    mw.setdefault("address", _place(ims, 5061 if mw.get("transport") == "tls" else 5060))
    ep_cscf.setdefault("http_port", _HTTP_PORT)

    if "eims_agw" in whole or not ep_cscf.get("gateways"):
        agw = _table(whole, "eims_agw")
        _table(agw, "web").setdefault("address", web)
        _table(agw, "ims").setdefault("address", ims)
        if "events" in ep_cscf:
            agw.setdefault("events", ep_cscf["events"])
    return whole


def _table(whole: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a copy of a table that may be filled in, put in its place; an empty one where there is none."""
    value = whole.get(name, {})
    if not isinstance(value, Mapping):
        return {}  # named by the checks
    whole[name] = dict(value)
    return whole[name]  # type: ignore[no-any-return]


def _port(places: object) -> str:
    first = places[0] if isinstance(places, list) and places else ""
    return first.rpartition(":")[2] if isinstance(first, str) else ""


def _place(address: str, port: int) -> str:
    return f"{_in_uri(address)}:{port}"


def _in_uri(host: str) -> str:
    return f"[{host}]" if ":" in host else host
