"""Systems that somebody runs: a file says how this machine's browser reaches each, and who is called."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from urllib.parse import urlsplit

import psutil
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from imskit.config.model import ConfigError, load, setting
from imskit.secrets import Secret
from simulators.lab.browser import Browser
from simulators.lab.compare.capture import Capture
from simulators.lab.compare.figures import POINTS
from simulators.lab.compare.model import Conditions, Path
from simulators.lab.compare.page import LogIn
from simulators.lab.compare.system import Access, FarPhone, Progress
from simulators.lab.compare.traffic import ESP, TCP, UDP, Rule
from simulators.lab.control import ControlError, ask
from simulators.lab.host import Machine
from simulators.lab.speech import make_speech
from simulators.lab.world import LabError
from simulators.phone.config import PhoneConfig

_PROTOCOLS = {"udp": UDP, "tcp": TCP, "esp": ESP}


@dataclass(frozen=True)
class PointConfig:
    """Packets on this machine that belong to a reference point; the first that fits a packet takes it."""

    point: str = setting("W3, Gm, Mw or Mb")
    address: str = setting("IPv4 address of one end")
    other: str = setting("address of the other end; empty: any", "")
    interface: str = setting("network interface; empty: any", "")
    protocols: list[str] = setting("some of udp, tcp, esp", factory=lambda: list(_PROTOCOLS))
    sip: bool = setting("count the SIP messages in it", False)

    def __post_init__(self) -> None:
        if self.point not in POINTS or self.point in ("W1", "W2"):
            raise ValueError(f"point must be W3, Gm, Mw or Mb (W1 and W2 the browser counts), not {self.point!r}")
        if not set(self.protocols) <= set(_PROTOCOLS):
            raise ValueError(f"protocols must be some of {', '.join(_PROTOCOLS)}")

    def rule(self) -> Rule:
        """Return it for the counter."""
        protocols = tuple(_PROTOCOLS[name] for name in self.protocols)
        return Rule(self.point, self.address, self.other, self.interface, protocols, sip=self.sip)


@dataclass(frozen=True)
class PathConfig:
    """One path: how this machine's browser comes to its page."""

    portal: str = setting("URL of the page")
    user: str = setting("name for the page's log-in form; empty: the page logs in by itself (the agent's card)", "")
    password: Secret[str] | None = setting("password for the form", None)
    proxy: str = setting(
        "empty: as this machine's browser is set up; direct: none; else HOST:PORT or the URL of a PAC file", ""
    )
    trust: File | None = setting(
        "PEM file of a certificate that the browser is to accept here, such as the edge's", None
    )
    elements: dict[str, str] = setting(
        'programs on this machine whose CPU and memory count: name = "a part of its command line"', factory=dict
    )
    points: list[PointConfig] = setting("reference points that can be seen here (needs CAP_NET_RAW)", factory=list)

    def __post_init__(self) -> None:
        parts = urlsplit(self.portal)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("portal must be an https URL")
        if bool(self.user) != (self.password is not None):
            raise ValueError("user and password belong together")

    def flags(self) -> list[str]:
        """Return Chromium's flags for it; `LabError` if the certificate cannot be read."""
        found = []
        if self.proxy == "direct":
            found.append("--no-proxy-server")
        elif "://" in self.proxy:
            found.append(f"--proxy-pac-url={self.proxy}")
        elif self.proxy:
            found.append(f"--proxy-server={self.proxy}")
        if self.trust is not None:
            found.append(f"--ignore-certificate-errors-spki-list={_fingerprints(self.trust)}")
        return found


@dataclass(frozen=True)
class SystemsConfig:
    """Systems that ``imsbridge compare --against`` calls through: one path, or both.

    The browser is this machine's.  What only a phone of this release tells (the way to the phone, delay, PESQ) is
    left out when somebody else is called.
    """

    name: str = setting("what the report calls it")
    number: str = setting("who is called; answers by itself")
    phone: File | None = setting(
        "configuration of the `imsbridge sim phone` that is called; it runs on this machine and has control, events, "
        "play, record and loop = true",
        None,
    )
    ue: PathConfig | None = setting("the path through the agent on this device", None)
    edge: PathConfig | None = setting("the path through the network edge", None)

    def __post_init__(self) -> None:
        if self.ue is None and self.edge is None:
            raise ValueError("a path is missing: [ue], [edge] or both")

    def of(self, path: Path) -> PathConfig | None:
        """Return the path's settings."""
        return self.ue if path is Path.UE else self.edge

    @property
    def paths(self) -> list[Path]:
        """The paths that are configured."""
        return [path for path in Path if self.of(path) is not None]


class ConfiguredSystem:
    """Real systems, from this machine."""

    def __init__(self, config: SystemsConfig, root: File, progress: Progress) -> None:
        """`ConfigError` if the phone's file is wrong, `LabError` without speech."""
        self.number = config.number
        self._config = config
        self._progress = progress
        self._machine = Machine("this machine", root)
        self._speech = make_speech(root)
        self.phone = None if config.phone is None else _far_phone(config.phone)

    @property
    def microphone(self) -> File:
        """Known speech."""
        return self._speech["browser"]

    @contextlib.asynccontextmanager
    async def open(self, paths: list[Path], conditions: Conditions) -> AsyncIterator[Mapping[Path, Access]]:
        """Start a browser for each path."""
        conditions.system = self._config.name
        if self.phone is not None:
            try:
                await ask(self.phone.control, "GET", "/status")
            except ControlError as error:
                raise LabError(
                    f"the phone of {self._config.phone}: {error}: start `imsbridge sim phone run`"
                ) from error
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._machine.stop)
            found = {}
            for path in paths:
                config = self._config.of(path)
                assert config is not None
                self._progress(f"{path.label}: {config.portal}")
                conditions.notes[f"portal, {path.label}"] = config.portal
                found[path] = await self._access(path, config, conditions, stack)
            yield found

    async def _access(
        self, path: Path, config: PathConfig, conditions: Conditions, stack: contextlib.AsyncExitStack
    ) -> Access:
        browser = Browser(self._machine, self.microphone, f"compare-{path}", config.flags())
        await stack.enter_async_context(browser)
        captures = []
        if config.points:
            try:
                captures.append(Capture(self._machine, [point.rule() for point in config.points]))
                stack.callback(captures[0].close)
            except PermissionError:
                conditions.notes[f"reference points, {path.label}"] = "not counted: no right to capture (CAP_NET_RAW)"
                self._progress(f"{path.label}: no right to capture packets; run it with sudo to count them")
        log_in = None if config.password is None else LogIn(config.user, config.password.reveal())
        return Access(config.portal, browser, log_in, captures, lambda: _processes(config.elements))


def read_systems(file: File) -> SystemsConfig:
    """Read the file of ``--against``; `ConfigError` says what is wrong and where."""
    return load(SystemsConfig, file)


def _far_phone(file: File) -> FarPhone:
    config = load(PhoneConfig, file)
    needed = {"control": config.control, "events": config.events, "play": config.play, "record": config.record}
    if missing := [name for name, value in needed.items() if value is None]:
        raise ConfigError(f"{file}: {', '.join(missing)}: needed for a comparison")
    if not config.loop:
        raise ConfigError(f"{file}: loop: must be true for a comparison: speech is looked for wherever it begins")
    assert config.control and config.events and config.play and config.record
    return FarPhone(config.control, config.events, config.play, config.record)


def _fingerprints(file: File) -> str:
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise LabError(f"trust: {file}: {error}") from error
    keys = [one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for one in certificates]
    return ",".join(base64.b64encode(hashlib.sha256(key).digest()).decode() for key in keys)


def _processes(wanted: Mapping[str, str]) -> dict[str, int]:
    """The oldest process of each element; this program's own command line names them too, and is not meant."""
    found: dict[str, tuple[float, int]] = {}
    own = psutil.Process()
    mine = {own.pid, *(parent.pid for parent in own.parents())}
    for process in psutil.process_iter(["pid", "cmdline", "create_time"]):
        line = " ".join(process.info["cmdline"] or ())
        for name, part in wanted.items():
            if part in line and process.pid not in mine:
                found[name] = min(found.get(name, (float("inf"), 0)), (process.info["create_time"], process.pid))
    return {name: pid for name, (_, pid) in found.items()}
