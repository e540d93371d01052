"""What is there to use as a card: PC/SC readers, and serial ports that look like modems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serial.tools import list_ports

from ue_agent.uicc.errors import NoDaemonError
from ue_agent.uicc.spec import ModemSource, PcscSource

_MODEM_VENDORS = {
    0x05C6: "Qualcomm",
    0x0BDB: "Ericsson",
    0x0F3D: "AirPrime",
    0x1199: "Sierra Wireless",
    0x12D1: "Huawei",
    0x1508: "Fibocom",
    0x1546: "u-blox",
    0x19D2: "ZTE",
    0x1BC7: "Telit",
    0x1E0E: "SIMCom",
    0x1E2D: "Cinterion",
    0x2C7C: "Quectel",
    0x2CB7: "Fibocom",
    0x2DEE: "MeiG",
    0x413C: "Dell",
}
"""USB vendors of cellular modems."""
_MODEM_WORDS = ("modem", "mobile", "lte", "5g", "4g", "wwan", "cellular")


@dataclass(frozen=True, slots=True)
class Reader:
    """A PC/SC reader."""

    name: str
    atr: bytes | None
    """Answer to reset of the card in it, ``None`` if it is empty."""

    @property
    def source(self) -> PcscSource:
        """What names this reader alone."""
        return PcscSource(self.name)


@dataclass(frozen=True, slots=True)
class ModemPort:
    """A serial port that may be a modem's.  A modem has several, of which one or two understand AT."""

    device: Path
    description: str
    """Maker and product as the device says, may be empty."""

    @property
    def source(self) -> ModemSource:
        """What names this port."""
        return ModemSource(self.device)


def readers() -> tuple[Reader, ...]:
    """Return the readers in PC/SC's order; ``NoDaemonError`` if its daemon does not answer or is not installed."""
    try:
        from ue_agent.uicc import pcsc
    except ImportError as error:
        raise NoDaemonError(f"PC/SC is not installed on this device: {error}") from error
    return tuple(Reader(name, atr) for name, atr in pcsc.list_readers())


def modem_ports() -> tuple[ModemPort, ...]:
    """Return the ports of this machine that look like a modem's, in the order of their names; none is opened.

    Those on USB with a known maker or a telling name, and the kernel's own AT ports (``/dev/wwan0at0``).
    """
    found = {port.device: port for port in _on_usb()}
    for device in Path("/dev").glob("wwan*at*"):
        found.setdefault(device, ModemPort(device, "WWAN device"))
    return tuple(found[device] for device in sorted(found))


def _on_usb() -> Iterable[ModemPort]:
    for port in list_ports.comports():
        if port.vid is None:
            continue
        maker = port.manufacturer or _MODEM_VENDORS.get(port.vid, "")
        words = " ".join(filter(None, (maker, port.product, port.interface)))
        if port.vid in _MODEM_VENDORS or any(word in words.lower() for word in _MODEM_WORDS):
            yield ModemPort(Path(port.device), words)
