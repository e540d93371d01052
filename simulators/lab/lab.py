"""The whole lab: hosts, programs and their configuration; what the demo and the end-to-end tests start from.

``Lab.start`` brings up, in the order in which they need each other: the operator's name server, IMS core and portal;
another web host; the phone; the SIM card in its reader; the agent, with the files that an installation puts on a
device (resolver, browser policies).  ``Lab.start_edge`` puts the network edge in the portal's place.  Must run inside
``world.enter()``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from imskit.aka.gba import bsf_from_impi
from imskit.aka.milenage import derive_opc
from imskit.secrets import Secret
from simulators.lab.browser import find_chromium
from simulators.lab.certificates import Authority
from simulators.lab.control import ask, until
from simulators.lab.host import Host, Process
from simulators.lab.topology import (
    EDGE_IMS,
    HANDSET_IMS,
    HANDSET_TURN,
    OPERATOR_DNS,
    OPERATOR_EDGE,
    OPERATOR_PORTAL,
    OTHER_HOST,
    P_CSCF,
    P_CSCF_PHONE_SIDE,
    PHONE_IMS,
    Topology,
)
from simulators.lab.world import LabError

DOMAIN = "ims.mnc001.mcc001.3gppnetwork.org"
PORTAL = "portal.ims.example"
WEBSOCKET = "ws.ims.example"
TURN = "turn.ims.example"
PORTAL_URL = f"https://{PORTAL}/"
OTHER_URL = "https://www.other.example/"
USER_NUMBER = "+15550100"
PHONE_NUMBER = "+15550200"
POLICY_FILE = "/etc/chromium/policies/managed/imsbridge.json"
# Test set 1 and 3 of TS 35.208: known to everyone, good for labs only.
USER_KEYS = ("465b5ce8b199b49faa5f0a2ee238a6bc", "cd63cb71954a9f4e48a5994e37a02baf")
PHONE_KEYS = ("fec86ba6eb707ed08905757b1bb44b8f", "1006020f0a478bf6b699f15c062e42b3")
GUEST_NUMBER = "+15550300"
"""A third subscriber, for other people's programs."""
GUEST_K, GUEST_OP = b"the-key-of-sipp.", b"operator.variant"
"""Text, because SIPp takes octets of a hexadecimal key for a part of its scenario; it derives OPc from OP."""
GUEST_KEYS = (GUEST_K.hex(), derive_opc(Secret(GUEST_K), Secret(GUEST_OP)).reveal().hex())
LAPTOP_USER, LAPTOP_PASSWORD, LAPTOP_NUMBER = "alice", "Wort-fuer-Alice-7", "+15550400"
"""Logs in by password and registers with a token (scenario 2 of TS 24.371)."""
DIGEST_USER, DIGEST_PASSWORD, DIGEST_NUMBER = "bob", "Wort-fuer-Bob-8", "+15550500"
"""Logs in by password and registers by SIP digest (scenario 1) with:"""
LINE_PASSWORD = "Leitung-von-Bob-9"
RANGE_USER, RANGE_PASSWORD = "carol", "Wort-fuer-Carol-10"
"""Has no identity of its own: gets one of a range (scenario 3)."""
WEB_SERVER = f"wwsf.{DOMAIN}"
"""What the HSS knows the portal by: it may vouch for those without a card."""
PIN = "84170263"
_CORE_PORT = 5062
"""Of I-CSCF and S-CSCF."""
_MW_PORT = 5064
"""Of the P-CSCF towards them."""
CELL = "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=001010001000019B"

type Progress = Callable[[str], None]


class Lab:
    """See the module's text.  ``root`` gets all files; ``log_level`` goes to every program."""

    def __init__(
        self,
        root: Path,
        *,
        log_level: str = "info",
        progress: Progress = lambda text: None,
        login: Literal["aka", "gba", "either"] = "aka",
    ) -> None:
        """``login`` is what the portal wants of the agent: the card, a bootstrapped key (GBA), or either."""
        self.root = root
        self._log_level = log_level
        self._progress = progress
        self._login = login
        self._naf_secret = secrets.token_urlsafe(16)
        progress("network namespaces")
        self.net = Topology(root)
        self.operator_ca = Authority.create("Lab operator", root / "operator-ca")
        self.web_ca = Authority.create("Lab web", root / "web-ca")
        self.turn_secret = secrets.token_hex(16)
        self.processes: dict[str, Process] = {}
        """Programs by name: dns, core, wwsf, edge, bsf, other, phone, card, agent."""
        self._python = [sys.executable, "-m", "imsbridge"]

    # ---- paths ------------------------------------------------------------------------------------------------------

    def events(self, name: str) -> Path:
        """The event log of a program."""
        return self.root / f"{name}.events"

    @property
    def hss_socket(self) -> Path:
        """Where the HSS serves the WWSF."""
        return self.root / "hss.sock"

    @property
    def zn_socket(self) -> Path:
        """Where the BSF gives keys to the portal."""
        return self.root / "zn.sock"

    @property
    def core_socket(self) -> Path:
        """The core's control socket."""
        return self.root / "core.sock"

    @property
    def phone_socket(self) -> Path:
        """The phone's control socket."""
        return self.root / "phone.sock"

    @property
    def agent_socket(self) -> Path:
        """The agent's control socket."""
        return self.root / "agent.sock"

    @property
    def edge_socket(self) -> Path:
        """The edge's control socket."""
        return self.root / "edge.sock"

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self, *, play: Path, record: Path) -> None:
        """Start everything; the phone plays ``play`` and records what it hears to ``record`` (WAV)."""
        # What does not need another to get ready starts side by side; most of their time goes into imports.
        await asyncio.gather(self.start_operator(), self.start_card())
        await asyncio.gather(self.start_phone(play, record), self.start_agent())

    async def start_operator(self) -> None:
        """Name server, IMS core, portal, and the other web host."""
        await asyncio.gather(
            self.start_dns(),
            self.start_core(),
            self.start_portal(),
            *([self.start_bsf()] if self._login != "aka" else []),
            self.start_web_host("other", OTHER_HOST, *self.web_ca.server("www.other.example")),
        )

    async def start_dns(self) -> None:
        """The operator's name server."""
        self._progress("the operator's name server")
        argv = ["sim", "dns", "run", "--listen", f"{OPERATOR_DNS}:53"]
        await self._run("dns", self.net.operator, argv, "ready:")

    async def start_portal(self) -> None:
        """The operator's portal; one that is started anew knows nobody."""
        self._progress("the operator's portal")
        config = self._write("wwsf.toml", self._portal("wwsf"))
        await self._run("wwsf", self.net.operator, ["edge", "wwsf", "run", "-c", str(config)], "ready:")

    def _portal(self, name: str, table: str = "") -> str:
        """The portal's settings for a program called ``name``, inside ``table`` if the file has others too."""
        certificate, key = self.operator_ca.server(PORTAL, WEBSOCKET, TURN)
        inner = f"{table}." if table else ""
        return f"""
            {f"[{table}]" if table else ""}
            portal = "{PORTAL}"
            port = 443
            websocket = "wss://{WEBSOCKET}/sip"
            certificate = "{certificate}"
            key = "{key}"
            hss = "{self.hss_socket}"
            address = "{OPERATOR_PORTAL}"
            cookie_domain = "ims.example"
            events = "{self.events(name)}"
            login = "{self._login}"
            [{inner}turn]
            secret = "{self.turn_secret}"
            uris = ["turn:{TURN}:3478?transport=udp", "turn:{TURN}:3478?transport=tcp"]
            [{inner}gba]
            zn = "{self.zn_socket}"
            secret = "{self._naf_secret}"
            """

    # ---- the network edge ---------------------------------------------------------------------------------------

    async def start_edge(self, *gateways: int, log_level: str | None = None) -> None:
        """The network edge: portal, eP-CSCF and eIMS-AGW in one process, in place of the portal alone.

        With ``gateways`` its media go through those of ``start_gateway``, named by their ports.
        """
        self._progress("the network edge: WWSF, eP-CSCF, eIMS-AGW")
        elsewhere = "".join(
            f"""
            [[ep_cscf.gateways]]
            name = "{port}"
            address = "127.0.0.1:{port}"
            """
            for port in gateways
        )
        config = self._write(
            "edge.toml",
            f"""
            home_domain = "{DOMAIN}"
            core = "{P_CSCF}:{_CORE_PORT}"
            web_address = "{OPERATOR_EDGE}"
            ims_address = "{EDGE_IMS}"
            state = "{self.root / "edge-state"}"
            control = "{self.edge_socket}"
            web_server_identity = "{WEB_SERVER}"
            [ep_cscf]
            wss = ["{OPERATOR_EDGE}:443"]
            events = "{self.events("edge")}"
            """
            + self._portal("wwsf", "wwsf")
            + f"""
            [[wwsf.identities.ranges]]
            name = "guests"
            wildcard = "sip:guest!.*!@{DOMAIN}"
            impi = "guest{{}}@{DOMAIN}"
            first = 0
            last = 99
            """
            + elsewhere,
        )
        if not (self.root / "edge-state").exists():
            await self._add_users(config)
        if "wwsf" in self.processes:
            await self.stop_one("wwsf")
        await self._run("edge", self.net.operator, ["edge", "run", "-c", str(config)], "ready:", log_level)
        self.set_up_laptop()

    async def start_gateway(self, port: int) -> None:
        """A media gateway as a program of its own, called ``gateway-<port>``, steered at this UDP port."""
        first = 30_000 + port % 10 * 1000
        config = self._write(
            f"gateway-{port}.toml",
            f"""
            control_port = {port}
            [web]
            address = "{OPERATOR_EDGE}"
            port_min = {first}
            port_max = {first + 999}
            [ims]
            address = "{EDGE_IMS}"
            port_min = {first}
            port_max = {first + 999}
            """,
        )
        argv = ["edge", "eims-agw", "run", "-c", str(config)]
        await self._run(f"gateway-{port}", self.net.operator, argv, "ready:")

    async def stop_edge(self) -> None:
        """End the network edge; the portal alone is there again."""
        await self.stop_one("edge")
        await self.start_portal()

    async def _add_users(self, config: Path) -> None:
        lines = ["name,password,impi,impus,display,range,registration"]
        for name, password, number, registration in (
            (LAPTOP_USER, LAPTOP_PASSWORD, LAPTOP_NUMBER, "token"),
            (DIGEST_USER, DIGEST_PASSWORD, DIGEST_NUMBER, "digest"),
        ):
            identities = f"{name}@{DOMAIN},sip:{number}@{DOMAIN} tel:{number}"
            lines.append(f"{name},{password},{identities},{number},,{registration}")
        lines.append(f"{RANGE_USER},{RANGE_PASSWORD},,,,guests,token")
        process = await asyncio.create_subprocess_exec(
            *self.net.operator.wrap([*self._python, "edge", "wwsf", "user", "import", "-c", str(config), "-"]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate("\n".join(lines).encode())
        if process.returncode:
            raise LabError(f"the edge's users cannot be added: {said.decode(errors='replace')[-500:]}")

    def set_up_laptop(self) -> None:
        """What a plain device has: the network's resolver, the lab's roots, and leave for the page to hear its user."""
        self.net.laptop.write("/etc/resolv.conf", f"nameserver {OPERATOR_DNS}\n")
        policy = {
            "CACertificates": [_base64(authority.der) for authority in (self.web_ca, self.operator_ca)],
            "AudioCaptureAllowedUrls": [PORTAL_URL],
        }
        self.net.laptop.write(POLICY_FILE, json.dumps(policy, indent=2))

    async def start_bsf(self) -> None:
        """The bootstrapping server; one that is started anew knows of no key."""
        self._progress("bootstrapping server (GBA)")
        config = self._write(
            "bsf.toml",
            f"""
            name = "{bsf_from_impi(f"@{DOMAIN}")}"
            hss = "{self.hss_socket}"
            listen = "{OPERATOR_PORTAL}:80"
            zn = "{self.zn_socket}"
            events = "{self.events("bsf")}"
            [[nafs]]
            name = "{PORTAL}"
            secret = "{self._naf_secret}"
            """,
        )
        await self._run("bsf", self.net.operator, ["sim", "bsf", "run", "-c", str(config)], "ready:")

    async def start_web_host(
        self, name: str, address: str, certificate: Path, key: Path, port: int = 443, host: Host | None = None
    ) -> None:
        """A web server with one plain page, on an address of ``host`` (the operator's); a program called ``name``."""
        argv = [sys.executable, "-m", "simulators.lab.other_host", address, str(port), str(certificate), str(key)]
        self.processes[name] = await (host or self.net.operator).start(name, argv, ready="ready:")

    async def start_core(self) -> None:
        """The IMS core; one that is started anew knows of no registration."""
        self._progress("IMS core: P-CSCF, S-CSCF, HSS")
        users = "".join(
            f"""
            [[subscribers]]
            impi = "00101000000000{index}@{DOMAIN}"
            impus = ["sip:{number}@{DOMAIN}", "tel:{number}"]
            k = "{keys[0]}"
            opc = "{keys[1]}"
            display = "{number[:2]} {number[2:5]} {number[5:]}"
            gba_u = {"true" if index == 1 and self._login != "aka" else "false"}
            """
            for index, number, keys in (
                (1, USER_NUMBER, USER_KEYS),
                (2, PHONE_NUMBER, PHONE_KEYS),
                (3, GUEST_NUMBER, GUEST_KEYS),
            )
        )
        config = self._write(
            "core.toml",
            f"""
            domain = "{DOMAIN}"
            gm = ["{P_CSCF}:5060", "{P_CSCF_PHONE_SIDE}:5060"]
            mw = "{P_CSCF}:{_MW_PORT}"
            s_cscf = "{P_CSCF}:{_CORE_PORT}"
            hss = "{self.hss_socket}"
            control = "{self.core_socket}"
            events = "{self.events("core")}"
            [gm_security]
            mode = "offered"
            [[edges]]
            address = "{EDGE_IMS}"
            visited_network = "{DOMAIN}"
            [[web_subscribers]]
            impi = "{LAPTOP_USER}@{DOMAIN}"
            impus = ["sip:{LAPTOP_NUMBER}@{DOMAIN}", "tel:{LAPTOP_NUMBER}"]
            web_servers = ["{WEB_SERVER}"]
            [[web_subscribers]]
            impi = "{DIGEST_USER}@{DOMAIN}"
            impus = ["sip:{DIGEST_NUMBER}@{DOMAIN}", "tel:{DIGEST_NUMBER}"]
            password = "{LINE_PASSWORD}"
            [[web_subscribers]]
            impi = "guest!.*!@{DOMAIN}"
            impus = ["sip:guest!.*!@{DOMAIN}"]
            web_servers = ["{WEB_SERVER}"]
            """
            + users,
        )
        await self._run("core", self.net.operator, ["sim", "core", "run", "-c", str(config)], "ready:")

    async def start_phone(self, play: Path, record: Path, *behaviour: str) -> None:
        """The VoLTE phone; ``behaviour`` are further arguments, such as ``--busy``."""
        self._progress("VoLTE phone")
        config = self._write(
            "phone.toml",
            f"""
            impi = "001010000000002@{DOMAIN}"
            impus = ["sip:{PHONE_NUMBER}@{DOMAIN}", "tel:{PHONE_NUMBER}"]
            domain = "{DOMAIN}"
            k = "{PHONE_KEYS[0]}"
            opc = "{PHONE_KEYS[1]}"
            address = "{PHONE_IMS}"
            p_cscf = "{P_CSCF_PHONE_SIDE}:5060"
            security = "ipsec"
            access_network_info = "{CELL}"
            play = "{play}"
            loop = true
            record = "{record}"
            reservation = 0.05
            control = "{self.phone_socket}"
            events = "{self.events("phone")}"
            """,
        )
        argv = ["sim", "phone", "run", "-c", str(config), *behaviour]
        await self._run("phone", self.net.phone, argv, "ready:")

    async def start_card(self, **changes: str | int) -> None:
        """The SIM card in its reader; ``changes`` replace lines of its profile."""
        self._progress("SIM card in its reader")
        fields: dict[str, str | int] = {"k": USER_KEYS[0], "opc": USER_KEYS[1], "pin": PIN, "imsi": "001010000000001"}
        fields |= {"gba": self._login != "aka", **changes}
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
        config = self._write(
            "card.toml",
            f"""
            {lines}
            [isim]
            impi = "{fields["imsi"]}@{DOMAIN}"
            domain = "{DOMAIN}"
            impu = ["sip:{USER_NUMBER}@{DOMAIN}", "tel:{USER_NUMBER}"]
            pcscf = ["{P_CSCF}"]
            webrtc_uri = ["{PORTAL_URL}"]
            """,
        )
        argv = ["sim", "card", "run", "-c", str(config), "--pcscd", "--link", str(self.root / "pcsc")]
        await self._run("card", self.net.handset, argv, "ready:")

    async def start_agent(self) -> None:
        """The agent, and the files that its installation puts on the device."""
        self._progress("UE agent: DNS, TURN, web proxy, SIF, RMF, IMS client")
        self._resolver("127.0.0.1")
        state = self.root / "agent-state"
        config = self._write(
            "ue.toml",
            f"""
            state = "{state}"
            control = "{self.agent_socket}"
            events = "{self.events("agent")}"
            [operator]
            domain = "ims.example"
            portal = "{PORTAL}"
            websocket = "{WEBSOCKET}"
            turn = ["{TURN}", "stun.ims.example"]
            trust = "{self.operator_ca.root}"
            [dns]
            upstreams = ["{OPERATOR_DNS}"]
            [turn]
            address = "{HANDSET_TURN}"
            [wwpf]
            browsers = ["{find_chromium()[1]}"]
            [ims]
            address = "{HANDSET_IMS}"
            security = "ipsec"
            access_network_info = "{CELL}"
            retry_base = 1.0
            [gba]
            enabled = {"false" if self._login == "aka" else "true"}
            [card]
            pin = "{PIN}"
            """,
        )
        argv = ["ue", "run", "-c", str(config)]
        await self._run("agent", self.net.handset, argv, "ready:", PCSCLITE_CSOCK_NAME=str(self.root / "pcsc"))
        policy = json.loads((state / "chromium-policy.json").read_text())
        # The lab's hosts are signed by roots that a real device would have from its system.
        policy["CACertificates"] += [_base64(authority.der) for authority in (self.web_ca, self.operator_ca)]
        self.net.handset.write(POLICY_FILE, json.dumps(policy, indent=2))

    async def stop_agent(self) -> None:
        """End the agent as its installation does: the device's own resolver is in use again."""
        await self.stop_one("agent")
        self._resolver(OPERATOR_DNS)

    def _resolver(self, address: str) -> None:
        # One only: a browser asks a second one whenever the first takes its time, and would be led past the agent.
        self.net.handset.write("/etc/resolv.conf", f"nameserver {address}\n")

    async def stop_one(self, name: str) -> int:
        """End one program; returns its exit code."""
        return await self.processes.pop(name).stop()

    async def stop(self) -> None:
        """End everything."""
        for name in ("agent", "card", "phone", "edge"):
            if name in self.processes:
                await self.stop_one(name)
        await self.net.stop()

    # ---- asking the programs ----------------------------------------------------------------------------------------

    async def agent_status(self) -> dict[str, Any]:
        """What ``imsbridge ue status --json`` shows."""
        return await ask(self.agent_socket, "GET", "/status")

    async def phone(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """Ask the phone's control socket."""
        return await ask(self.phone_socket, method, path, body or None)

    async def registration_times(self, runs: int = 5) -> dict[str, Any]:
        """Let the third subscriber register from the phone's host, see ``registration_times``; `LabError`."""
        k, opc = GUEST_KEYS
        asked = {
            "address": PHONE_IMS,
            "p_cscf": f"{P_CSCF_PHONE_SIDE}:5060",
            "domain": DOMAIN,
            "impi": f"001010000000003@{DOMAIN}",
            "impu": f"sip:{GUEST_NUMBER}@{DOMAIN}",
            "k": k,
            "opc": opc,
            "runs": runs,
        }
        process = await asyncio.create_subprocess_exec(
            *self.net.phone.wrap([sys.executable, "-m", "simulators.lab.registration_times"]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complaint = await process.communicate(json.dumps(asked).encode())
        if process.returncode:
            raise LabError(f"registration times: {complaint.decode(errors='replace')[-500:]}")
        found: dict[str, Any] = json.loads(said)
        return found

    async def core(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """Ask the core's control socket."""
        return await ask(self.core_socket, method, path, body or None)

    async def edge_status(self) -> dict[str, Any]:
        """What ``imsbridge edge status --json`` shows."""
        return await ask(self.edge_socket, "GET", "/status")

    async def registered(self, within: float = 30.0) -> None:
        """Wait until both agent and phone are registered with the core."""

        async def agent() -> bool:
            return bool((await self.agent_status())["registration"]["ok"])

        async def phone() -> bool:
            return bool((await self.phone("GET", "/status"))["registration"] == "registered")

        await until(agent, "the agent registers with the IMS core", within)
        await until(phone, "the phone registers with the IMS core", within)

    # ---- helpers ----------------------------------------------------------------------------------------------

    async def _run(
        self, name: str, host: Any, argv: list[str], ready: str, log_level: str | None = None, **env: str
    ) -> None:
        if name in self.processes:
            raise LabError(f"{name} runs already")
        command = [*self._python, *argv, "--log-level", log_level or self._log_level]
        self.processes[name] = await host.start(name, command, ready=ready, env=env)

    def _write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.touch(mode=0o600)
        path.write_text("\n".join(line.strip() for line in text.splitlines()) + "\n")
        return path


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
